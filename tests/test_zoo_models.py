"""Whole models of torchvision and timm: half of every group removed, proof, costs, a training step, reloading.

By default only models that take seconds run; `pytest --all-models` runs every one of zoo.txt.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.tracing import output_tensors
from proof import check_counts, train_once

ZOO = Path(__file__).parents[1] / "bench" / "zoo.txt"
LISTED = [tuple(line.split()) for line in ZOO.read_text().splitlines() if line.strip()]
SMALL = {
    "convnext_atto",
    "crossvit_tiny_240",
    "ghostnet_100",
    "levit_128s",
    "mobilenet_v3_small",
    "mobilenetv4_conv_small",
    "mobilevit_s",
    "resnet18",
    "rexnet_100",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "visformer_tiny",
}
pytestmark = pytest.mark.slow


def build(library: str, name: str) -> tuple[nn.Module, Tensor]:
    """A model with random weights, and an example image."""
    torch.manual_seed(0)
    if library == "torchvision":
        torchvision = pytest.importorskip("torchvision")
        options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        size = 299 if name == "inception_v3" else 224
        return torchvision.models.get_model(name, weights=None, **options).eval(), torch.randn(1, 3, size, size)
    timm = pytest.importorskip("timm")
    model = timm.create_model(name).eval()
    return model, torch.randn(1, *model.default_cfg["input_size"])


@pytest.mark.parametrize(("library", "name"), LISTED, ids=lambda value: value)
def test_half_of_everything(
    library: str, name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in SMALL and not request.config.getoption("--all-models"):
        pytest.skip("only with --all-models")
    model, x = build(library, name)
    structure = icycle.trace(model, x)
    assert structure.prunable
    assert all(group.reason for group in structure.groups if not group.prunable)
    subnet = icycle.SubNetwork.random(structure, 0.5)
    assert icycle.testing.removal_error(model, x, subnet) <= 1e-5
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)  # some models go through float32 whatever they are given
        assert icycle.testing.removal_error(copy.deepcopy(model).double(), x.double(), subnet) <= 1e-10
    icycle.prune(model, structure, subnet)
    check_counts(model.requires_grad_(False), x, structure, subnet)
    loaded = icycle.load(icycle.save(model, tmp_path / "saved"), build(library, name)[0])
    with torch.no_grad():
        for expected, actual in zip(output_tensors(model(x)), output_tensors(loaded(x)), strict=True):
            assert torch.equal(expected, actual)
    train_once(model.requires_grad_(True), x)


def test_every_small_model_is_listed() -> None:
    assert {name for _, name in LISTED} >= SMALL
