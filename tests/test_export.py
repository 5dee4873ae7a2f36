"""What is written runs elsewhere, and gives what torch gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

import icycle
from icycle.cli._export import _latency_rows
from icycle.errors import ExportError
from icycle.export import Card, OnnxModule, export, format_names, onnx_model, quantize, register_format, write_card
from icycle.structure import SubNetwork
from icycle.training import evaluate

INF, NAN = float("inf"), float("nan")


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
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ExportError, match="exists"):
        export(nn.Conv2d(1, 2, 3), torch.randn(1, 1, 8, 8), tmp_path / "model", name)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


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


def file_format(suffix: str, change: Callable[[Tensor], Tensor]) -> str:
    """A format that gives what torch gives, but for a change."""

    @register_format(f"changed{suffix}", suffix)
    def write(model: nn.Module, inputs: Tensor, file: Path, dynamic_batch: bool):  # type: ignore[no-untyped-def]
        file.write_text("")
        return lambda batch: [change(model(batch))]

    return f"changed{suffix}"


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", ["onnx", "openvino", "pt2"])
def test_a_file_that_fixes_the_batch_is_refused_and_leaves_nothing(name: str, batch: int, tmp_path: Path) -> None:
    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([row - row.mean() for row in x])

    with pytest.raises(ExportError, match="--fixed-batch"):
        export(Loop(), torch.randn(batch, 4), tmp_path / "loop", name)
    assert list(tmp_path.iterdir()) == []
    assert export(Loop(), torch.randn(batch, 4), tmp_path / "loop", name, dynamic_batch=False).batches == 1


def test_the_second_batch_grows_where_the_first_dimension_is_the_batch(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return x * scale

    inputs = (torch.randn(8, 4), torch.randn(4))
    assert export(Scaled(), inputs, tmp_path / "scaled", "safetensors").batches == 2


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        ([1.0, INF, -INF, NAN], 0),
        ([3.0, INF, -INF, NAN], 2),
        ([NAN, INF, -INF, NAN], INF),
        ([1.0, INF, -INF, 0.0], INF),
        ([1.0, INF, INF, NAN], INF),
    ],
)
def test_equal_values_do_not_differ_and_nan_differs_from_all_others(
    found: list[float], difference: float, tmp_path: Path
) -> None:
    own = file_format(".odd", lambda _: torch.tensor([found]))
    expected = torch.tensor([[1.0, INF, -INF, NAN]])
    assert export(nn.Identity(), expected, tmp_path / "a", own, dynamic_batch=False).difference == difference


def test_an_empty_output_does_not_differ(tmp_path: Path) -> None:
    assert (
        export(nn.Identity(), torch.zeros(2, 0), tmp_path / "a", file_format(".empty", nn.Identity())).difference == 0
    )


class Scaled(nn.Module):
    """Reads neither `unused` nor, where it is a number, `scale` as a tensor."""

    def forward(self, x: Any, unused: Tensor | None = None, scale: Any = 1) -> Tensor:
        return (x["a"] - x["b"] if isinstance(x, dict) else x) * scale


@pytest.mark.parametrize("name", ["onnx", "openvino", "pt2"])
@pytest.mark.parametrize(
    "inputs",
    [
        (torch.randn(2, 4), None, 3),
        (torch.randn(2, 4), torch.randn(2, 3), torch.randn(2, 4)),
        {"scale": torch.randn(2, 4), "unused": torch.randn(2, 3), "x": torch.randn(2, 4)},
        ({"b": torch.randn(2, 4), "a": torch.randn(2, 4)},),
    ],
    ids=["number", "unused", "unused keyword", "mapping"],
)
def test_whatever_torch_takes_is_exported(name: str, inputs: Any, tmp_path: Path) -> None:
    assert export(Scaled(), inputs, tmp_path / "scaled", name).difference < 1e-6


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_weights_that_no_runtime_takes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"weight.* is bfloat16; export model\.float"):
        export(nn.Linear(4, 4).bfloat16(), torch.randn(2, 4).bfloat16(), tmp_path / "half", name)


def test_safetensors_hold_the_tensors_of_a_state_that_holds_more(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 1}

        def set_extra_state(self, state: dict[str, int]) -> None:
            assert state == {"steps": 1}

    done = export(Extra(4, 4), torch.randn(2, 4), tmp_path / "extra", "safetensors")
    assert done.difference == 0 and load_file(done.path).keys() == {"weight", "bias"}


@pytest.mark.parametrize("name", ["onnx", "safetensors"])
def test_a_file_has_the_rights_of_any_new_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    done = export(nn.Linear(4, 4), torch.randn(2, 4), tmp_path / "linear", name)
    assert done.path.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_no_file_of_the_users_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "linear.bin").write_text("mine")
    with pytest.raises(ExportError, match=r"linear\.bin exists"):
        export(nn.Linear(4, 4), torch.randn(2, 4), tmp_path / "linear", "openvino")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_the_same_model_is_there_already(name: str, tmp_path: Path) -> None:
    first, second = (export(nn.Identity(), torch.randn(2, 4), tmp_path / "net", name) for _ in range(2))
    assert first.files == second.files and first.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_any_name_and_a_folder_take_a_file(tmp_path: Path) -> None:
    odd = export(nn.Linear(4, 4), torch.randn(2, 4), tmp_path / "m\u00f6 [1].onnx", "onnx")
    assert odd.bytes == odd.path.stat().st_size > 0
    inside = export(nn.Linear(4, 4), torch.randn(2, 4), tmp_path, "onnx")
    assert inside.path == tmp_path / "model.onnx"


def test_a_place_that_cannot_be_written_is_an_export_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="choose another folder"):
        export(nn.Linear(4, 4), torch.randn(2, 4), tmp_path / "file" / "model", "safetensors")


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


def test_a_card_tells_the_latency_that_was_asked_for_before_that_in_torch() -> None:
    dense, pruned = {"latency": {"1": {"median": 4.0}}}, {"latency": {"1": {"median": 3.0}}}
    asked = {"target": "onnxruntime", "batch": 8, "dense": {"median": 2.0}, "pruned": {"median": 1.0}}
    of_torch = ("latency, torch, batch 1", "4.00 ms", "3.00 ms")
    assert list(_latency_rows({"dense": dense, "pruned": pruned})) == [of_torch]
    rows = list(_latency_rows({"dense": dense, "pruned": pruned, "asked_latency": asked}))
    assert rows == [("latency asked for (onnxruntime, batch 8)", "2.00 ms", "1.00 ms"), of_torch]


def test_a_card_takes_the_place_of_a_card_alone(tmp_path: Path) -> None:
    shared = {"network": "resnet8", "data": "digits", "method": "ice", "costs": [], "measured": {}, "groups": []}
    first, second = (Card(name=name, recipe="", seed=seed, **shared) for name, seed in (("one", 1), ("two", 2)))
    assert write_card(first, tmp_path) == write_card(second, tmp_path) == tmp_path / "README.md"
    assert "# two" in (tmp_path / "README.md").read_text()
    for own in ("# my project\n", "---\nlibrary_name: timm\n---\n# mine\n"):
        (tmp_path / "README.md").write_text(own)
        assert write_card(first, tmp_path) == tmp_path / "MODEL_CARD.md"
        assert (tmp_path / "README.md").read_text() == own
    for name in ("README.md", "MODEL_CARD.md"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(ExportError, match=r"README\.md and MODEL_CARD\.md"):
        write_card(first, tmp_path)
    assert [(tmp_path / name).read_text() for name in ("README.md", "MODEL_CARD.md")] == ["mine", "mine"]
