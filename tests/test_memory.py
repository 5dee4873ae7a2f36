"""Memory as a budget: what the structure says is what a run takes, in any sub-network and at any batch size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import icycle
from icycle.errors import BudgetError, LatencyError
from icycle.latency import Selector, peak_activation_bytes
from icycle.structure import Structure, SubNetwork
from icycle.tracing import copy_of
from networks import IMAGE as SMALL
from networks import TOKENS, Branches, Words, residual_network


class Dense(nn.Module):
    """Every layer reads all before it: nothing is let go of until the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 16 * number, 16, 3, padding=1) for number in range(4))
        self.head = nn.Linear(67, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat((x, torch.relu(layer(x))), 1)
        return self.head(x.mean((2, 3)))


def bottleneck(*widths: int) -> nn.Sequential:
    """The first layers take the memory: their images are large."""
    layers: list[nn.Module] = []
    wide = 3
    for out in widths:
        layers += [nn.Conv2d(wide, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        wide = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 5))


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.Sequential(nn.Linear(8, 32), layer, nn.Linear(32, 5))


IMAGE = torch.randn(2, 3, 16, 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "chain": (lambda: bottleneck(32, 64, 64), IMAGE),
    "residual": (residual_network, IMAGE[:, :1]),
    "dense": (Dense, IMAGE),
    "branches": (Branches, SMALL),
    "attention": (attention, torch.randn(2, 6, 8)),
    "words": (Words, TOKENS),
}


def prepared(name: str) -> tuple[nn.Module, torch.Tensor, Structure]:
    torch.manual_seed(0)
    make, example = NETWORKS[name]
    model = make().eval()
    return model, example, icycle.trace(model, example)


def pruned(model: nn.Module, structure: Structure, subnet: SubNetwork) -> nn.Module:
    return icycle.prune(copy_of(model), structure, subnet)


@pytest.mark.parametrize("name", ["chain", "residual", "dense", "branches"])
def test_the_structure_tells_what_a_run_takes(name: str) -> None:
    model, example, structure = prepared(name)
    assert structure.memory() == peak_activation_bytes(model, example)
    for seed, ratio in enumerate((0.2, 0.5, 0.7)):
        subnet = SubNetwork.random(structure, ratio, seed)
        assert structure.memory(subnet) == peak_activation_bytes(pruned(model, structure, subnet), example)


def test_the_gradient_is_that_of_the_moment_at_which_most_is_held() -> None:
    _, _, structure = prepared("chain")
    cost, counts = structure.costs["memory"], np.array([32, 64, 64])
    found = [cost(counts) - cost(counts - np.eye(3, dtype=np.int64)[place]) for place in range(3)]
    assert cost.gradient(counts).tolist() == found
    assert found[1:] == [0, 0]


@pytest.mark.parametrize("name", NETWORKS)
def test_half_the_memory_when_half_is_asked(name: str) -> None:
    model, example, structure = prepared(name)
    scores = icycle.saliency.group_norm(model, structure)
    share, least = (0.9, 0.0) if name in ("attention", "words") else (0.6, 0.4)
    subnet = icycle.select(structure, scores, icycle.Budget(memory=share), model=model)
    found = pruned(model, structure, subnet)
    assert least <= peak_activation_bytes(found, example) / peak_activation_bytes(model, example) <= 1.03 * share


def test_what_takes_no_memory_at_the_peak_is_kept() -> None:
    model, _, structure = prepared("chain")
    scores = icycle.saliency.group_norm(model, structure)
    counts = icycle.select(structure, scores, icycle.Budget(memory=0.6)).counts(structure)
    assert counts[0] < 32 and counts[2] == 64


def test_an_amount_another_batch_and_other_costs() -> None:
    model, example, structure = prepared("residual")
    scores = icycle.saliency.group_norm(model, structure)
    large = peak_activation_bytes(model, torch.cat([example] * 4))
    budget = icycle.Budget(memory=f"{0.7e-3 * large:.3f} kB", params=0.5, batch=8)
    subnet = icycle.select(structure, scores, budget, model=model)
    found = pruned(model, structure, subnet)
    assert peak_activation_bytes(found, torch.cat([example] * 4)) <= 0.7 * large * 1.03
    assert structure.params(subnet) <= 0.51 * structure.params()
    for unknown in (
        budget,
        icycle.Budget(memory=0.6, target="openvino"),
        icycle.Budget(memory=0.6, precision="bfloat16"),
    ):
        with pytest.raises(BudgetError, match="pass model="):
            icycle.select(structure, scores, unknown)


def test_a_run_that_takes_more_than_the_structure_says_corrects_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, structure = prepared("chain")
    scores = icycle.saliency.group_norm(model, structure)
    selector = Selector(structure, icycle.Budget(memory=0.6), model)
    assert selector.memory is not None
    measure, whole = selector.memory.measure, SubNetwork.full(structure)
    monkeypatch.setattr(
        selector.memory, "measure", lambda subnet: measure(subnet) + (0 if subnet == whole else structure.memory() // 8)
    )
    found = selector.measured(scores)
    assert structure.memory(found) <= (0.6 * 1.03 - 1 / 8) * structure.memory()


@pytest.mark.parametrize("round_to", [1, 16])
def test_coarse_steps_end_below_the_amount(round_to: int) -> None:
    model, example, structure = prepared("chain")
    scores = icycle.saliency.group_norm(model, structure)
    subnet = icycle.select(structure, scores, icycle.Budget(memory=0.8), model=model, round_to=round_to)
    taken = peak_activation_bytes(pruned(model, structure, subnet), example)
    assert taken / structure.memory() == pytest.approx(0.78 if round_to == 1 else 0.5, abs=0.025)


def test_a_model_is_measured_in_its_own_type() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)).eval().bfloat16()
    structure = icycle.trace(model, torch.randn(2, 8, dtype=torch.bfloat16))
    selector = Selector(structure, icycle.Budget(memory=0.5), model)
    assert selector.memory is not None and selector.memory.dense == structure.memory()
    whole = Selector(structure, icycle.Budget(memory=0.5, precision="float32"), model).memory
    assert whole is not None and whole.dense == 2 * structure.memory()


def test_targets_that_do_not_tell_their_memory_are_refused() -> None:
    model, _, structure = prepared("chain")
    scores = icycle.saliency.group_norm(model, structure)
    budget = icycle.Budget(memory=0.6, target="openvino")
    if not icycle.latency.targets()["openvino"]:
        with pytest.raises(LatencyError, match="does not tell what it takes"):
            icycle.select(structure, scores, budget, model=model)


@pytest.mark.parametrize("value", ["1.5", "3 ms", "-1 MB", 0, 1.5, True])
def test_amounts_that_are_none(value: object) -> None:
    with pytest.raises(BudgetError, match="memory as"):
        icycle.Budget(memory=value)  # type: ignore[arg-type]


def test_amounts_are_said_with_or_without_a_unit() -> None:
    assert icycle.Budget(memory="1.5 MB").allowed("memory", 1e9) == 1.5e6
    assert icycle.Budget(memory="2 KiB").allowed("memory", 1e9) == 2048
    assert icycle.Budget(memory=4096).allowed("memory", 1e9) == 4096
    assert str(icycle.Budget(memory=4096)) == "4,096 bytes of memory"
