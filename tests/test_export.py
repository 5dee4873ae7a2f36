"""What is written runs elsewhere, and gives what torch gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import icycle
from icycle.errors import ExportError
from icycle.export import Card, OnnxModule, export, format_names, onnx_model, quantize, register_format, write_card
from icycle.structure import SubNetwork
from icycle.training import evaluate


def pruned() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, stride=2), nn.ReLU())
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    structure = icycle.trace(model, torch.randn(1, 1, 8, 8))
    return icycle.prune(model, structure, SubNetwork.random(structure, 0.5, 0))


@pytest.mark.parametrize("name", ["onnx", "openvino", "pt2", "safetensors"])
def test_what_is_written_gives_what_torch_gives_at_any_batch(name: str, tmp_path: Path) -> None:
    model = pruned().train()
    done = export(model, torch.randn(1, 1, 8, 8), tmp_path / "model", name)
    assert done.difference < 1e-5
    assert done.batches == 2
    assert done.path.is_file() and done.bytes >= done.path.stat().st_size > 0
    assert model.training
    with pytest.raises(ExportError, match="exists"):
        export(model, torch.randn(1, 1, 8, 8), tmp_path / "model", name)


@pytest.mark.parametrize("given", ["net.v2", "net.v2.txt"])
def test_a_dot_in_a_name_begins_no_suffix_but_the_formats(given: str, tmp_path: Path) -> None:
    @register_format("itself", ".txt")
    def write(model: nn.Module, inputs: torch.Tensor, file: Path, dynamic_batch: bool):  # type: ignore[no-untyped-def]
        file.write_text("")
        return lambda batch: [model(batch)]

    export(pruned(), torch.randn(2, 1, 8, 8), tmp_path / given, "itself")
    assert [file.name for file in tmp_path.iterdir()] == ["net.v2.txt"]


def test_a_wrong_export_is_noticed(tmp_path: Path) -> None:
    @register_format("off-by-one", ".txt")
    def write(model: nn.Module, inputs: torch.Tensor, file: Path, dynamic_batch: bool):  # type: ignore[no-untyped-def]
        file.write_text("")
        return lambda batch: [model(batch) + 1]

    assert export(pruned(), torch.randn(2, 1, 8, 8), tmp_path / "a", "off-by-one").difference == pytest.approx(
        1, abs=1e-5
    )


def test_unknown_formats_and_models_that_cannot_be_exported_are_errors(tmp_path: Path) -> None:
    class Reads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ExportError, match="out of onnx"):
        export(pruned(), torch.randn(1, 1, 8, 8), tmp_path / "a", "tflite")
    for name in ("onnx", "pt2"):
        with pytest.raises(ExportError, match="Reads"):
            export(Reads(), torch.randn(2, 3), tmp_path / "b", name)
    assert {"onnx", "pt2", "openvino", "safetensors", "executorch"} <= set(format_names())


def test_eight_bits_give_nearly_the_same_classes(tmp_path: Path) -> None:
    model = pruned()
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    plain, small = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    plain.write_bytes(onnx_model(model, images[:2]))
    quantize(plain, images.split(16), small)
    assert evaluate(OnnxModule(plain, model, images), [(images, labels)]) == 100.0
    assert evaluate(OnnxModule(small, model, images), [(images, labels)]) >= 90.0
    import onnx

    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(str(small)).graph.node)
    with pytest.raises(ExportError, match="at least one batch"):
        quantize(plain, [], tmp_path / "none.onnx")


def test_an_onnx_file_is_called_as_its_network_and_gives_outputs_of_the_same_form(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, object]:
            return {"sum": self.left(a) + self.right(b), "parts": (self.left(a), None)}

    model, file = Both().eval(), tmp_path / "both.onnx"
    inputs = {"b": torch.randn(5, 2), "a": torch.randn(5, 3)}
    file.write_bytes(onnx_model(model, inputs))
    outputs = OnnxModule(file, model, {name: tensor[:1] for name, tensor in inputs.items()})(**inputs)
    expected = model(**inputs)
    assert outputs["parts"][1] is None
    torch.testing.assert_close([outputs["sum"], outputs["parts"][0]], [expected["sum"], expected["parts"][0]])


def test_a_card_has_metadata_that_can_be_read(tmp_path: Path) -> None:
    card = Card(
        name="digits-1",
        network="resnet8",
        data="digits",
        method="one-cycle",
        costs=[("MACs", "1,000", "500")],
        measured={"test": {"accuracy": 97.25}},
        groups=[("conv1", "16", "9")],
        recipe="name: digits\nseed: 3",
        seed=3,
        latency=[("latency, torch, batch 1", "2.0 ms", "1.0 ms")],
        versions={"icycle": icycle.__version__},
        license="apache-2.0",
        task="image-classification",
    )
    text = write_card(card, tmp_path).read_text()
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "apache-2.0"
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9725
    for words in ("| conv1 | 16 | 9 |", "name: digits", "Seed 3", "2.0 ms", "| test | accuracy | 97.25 % |"):
        assert words in body
    other = str(replace(card, measured={"test": {"mean squared error": 0.25}}, task=None))
    assert "| test | mean squared error | 0.25 |" in other
    assert "image-classification" not in other and "%" not in other


def test_a_card_takes_the_place_of_a_card_alone(tmp_path: Path) -> None:
    shared = {"network": "resnet8", "data": "digits", "method": "ice", "costs": [], "measured": {}, "groups": []}
    first, second = (Card(name=name, recipe="", seed=seed, **shared) for name, seed in (("one", 1), ("two", 2)))
    assert write_card(first, tmp_path) == write_card(second, tmp_path) == tmp_path / "README.md"
    assert "# two" in (tmp_path / "README.md").read_text()
    for own in ("# my project\n", "---\nlibrary_name: timm\n---\n# mine\n"):
        (tmp_path / "README.md").write_text(own)
        assert write_card(first, tmp_path) == tmp_path / "MODEL_CARD.md"
        assert (tmp_path / "README.md").read_text() == own
