"""`icycle bench` and `icycle export`: on a run's folder, on a model's name, on a saved model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import onnxruntime
import pytest
import torch
import yaml
from torch import nn

import icycle
from command import command
from icycle.errors import RecipeError
from icycle.latency import Measurement, Timing, peak_activation_bytes, verdict
from icycle.recipes import open_run
from icycle.structure import SubNetwork
from icycle.zoo import build_model

OWN = """
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset
    from icycle.training import Supervised

    class Both(nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.left, self.right, self.head = nn.Linear(6, 16), nn.Linear(4, 16), nn.Linear(32, num_classes)

        def forward(self, a, b):
            return {"out": self.head(torch.cat([self.left(a), self.right(b)], 1).relu())}

    class Rows(TensorDataset):
        def __init__(self, form):
            a, b = torch.randn(200, 6), torch.randn(200, 4)
            super().__init__(a, b, a[:, 0] + b[:, 0])
            self.form = form

        def __getitem__(self, index):
            a, b, y = super().__getitem__(index)
            return self.form(a, b, y)

    def small(num_classes=2):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
        )

    def tuples():
        return {"train": Rows(lambda a, b, y: ((a, b), int(y > 0))), "classes": 2}

    def keywords():
        return {"train": Rows(lambda a, b, y: ({"b": b, "a": a}, int(y > 0))), "classes": 2}

    def labels():
        return {"train": Rows(lambda a, b, y: {"a": a, "b": b, "labels": int(y > 0)}), "classes": 2}

    def numbers():
        return {"train": Rows(lambda a, b, y: ((a, b), {"y": y})), "classes": 1}

    class Distance(Supervised):
        metric, higher_is_better = "distance", False

        def loss_of(self, outputs, targets):
            return (outputs["out"][:, 0] - targets["y"]).abs().mean()

        def metrics(self, model, loader):
            losses = [float(self.loss(model, batch)) for batch in loader]
            return {"distance": sum(losses) / len(losses)}

    class Weighed(Distance):
        def metrics(self, model, loader):
            return {"distance": super().metrics(model, loader)["distance"] + float(model.head.bias.abs().sum())}
"""
RECIPE = """
    data: {name: "acme_both:tuples"}
    model: {name: "acme_both:Both"}
    train: {epochs: 1, batch_size: 16}
    method: {name: one-cycle, budget: {macs: 0.6}}
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "acme_both.py").write_text(dedent(OWN))
    (tmp_path / "both.yaml").write_text(dedent(RECIPE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("acme_both", None)


@pytest.mark.parametrize("data", ["tuples", "keywords", "labels"])
def test_a_network_of_several_inputs_is_exported_and_benched(
    acme: None, data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "run", "both.yaml", "--set", f"data.name=acme_both:{data}", "--output", "run") == 0
    for options in (("--int8",), ("--to", "pt2")):
        assert command(monkeypatch, "export", "run", *options) == 0
    folder = Path("run/export")
    assert {file.name for file in folder.iterdir()} == {"model.onnx", "model-int8.onnx", "model.pt2", "README.md"}
    shown = capsys.readouterr().out
    differences = [float(line.rsplit(" ", 1)[1]) for line in shown.splitlines() if "differs from torch" in line]
    assert len(differences) == 2 and max(differences) < 1e-5
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert {given.name for given in session.get_inputs()} == {"a", "b"}
    assert "image-classification" not in (folder / "README.md").read_text()
    assert command(monkeypatch, "bench", "run", "--batch", "3", "--seconds", "0.1", "--target", "torch") == 0
    assert command(monkeypatch, "export", "run", "--int8", "--fixed-batch", "--output", "fixed") == 2


def test_eight_bits_and_the_card_tell_the_metric_of_the_task(
    acme: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--set", "data.name=acme_both:numbers", "--set", "task.name=acme_both:Distance")
    assert command(monkeypatch, "run", "both.yaml", *settings, "--output", "run") == 0
    capsys.readouterr()
    assert command(monkeypatch, "export", "run", "--int8") == 0
    report = json.loads(Path("run/report.json").read_text())
    before = f"{report['validation_accuracy']:.4g}"
    assert f"{before} before" in capsys.readouterr().out
    card = Path("run/export/README.md").read_text()
    assert f"| validation | distance | {before} |" in card and "accuracy" not in card


def test_a_task_that_wants_more_than_outputs_is_told_in_one_line(
    acme: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--set", "data.name=acme_both:numbers", "--set", "task.name=acme_both:Weighed")
    assert command(monkeypatch, "run", "both.yaml", *settings, "--output", "run") == 0
    assert command(monkeypatch, "export", "run", "--int8") == 2
    assert "an ONNX file, which can only be called, but it gave AttributeError" in capsys.readouterr().err
    assert "- `model.onnx`" in Path("run/export/README.md").read_text()
    assert command(monkeypatch, "export", "run") == 0


def test_a_run_is_opened_without_the_weights_that_it_began_with(acme: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(build_model("acme_both:Both", num_classes=2).state_dict(), "w.pt")
    assert command(monkeypatch, "run", "both.yaml", "--set", "model.weights=w.pt", "--output", "first") == 0
    again = ("--set", "model.weights=first/model", "--set", "method.budget.macs=0.9", "--output", "second")
    assert command(monkeypatch, "run", "both.yaml", *again) == 0
    Path("w.pt").unlink()
    shapes = [
        [parameter.shape for parameter in network.parameters()]
        for run in map(open_run, (Path("first"), Path("second")))
        for network in (run.dense, run.pruned)
    ]
    assert shapes[0] != shapes[1] == shapes[2] != shapes[3]
    Path("first").rename("elsewhere")
    with pytest.raises(RecipeError, match="first/model"):
        open_run(Path("second"))


@pytest.mark.parametrize(("content", "words"), [("", "readable"), ('{"dense": {', "readable"), ("{}", "lacks recipe")])
def test_a_damaged_report_is_told_in_one_line(
    content: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name, text in (("recipe.yaml", "name: x"), ("metrics.jsonl", ""), ("report.json", content)):
        (folder / name).write_text(text)
    assert command(monkeypatch, "export", str(folder)) == 2
    assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    settings = ("train.epochs=2", "model.width=16", "data.subset=300", "method.budget.macs=0.7")
    overrides = [part for value in settings for part in ("--set", value)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert command(monkeypatch, "run", "digits", *overrides, "--output", str(folder)) == 0
    return folder


def test_a_run_is_exported_with_its_card_and_in_eight_bits(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "export", str(run), "--int8", "--license", "mit") == 0
    shown = capsys.readouterr().out
    assert "differs from torch by at most" in shown and "accuracy on the validation split" in shown
    assert {file.name for file in (run / "export").iterdir()} == {"model.onnx", "model-int8.onnx", "README.md"}
    head, body = (run / "export" / "README.md").read_text().split("---\n", 2)[1:]
    metadata, report = yaml.safe_load(head), json.loads((run / "report.json").read_text())
    assert metadata["license"] == "mit"
    assert command(monkeypatch, "export", str(run), "--to", "openvino") == 0
    assert command(monkeypatch, "export", str(run), "--int8") == 0
    card = (run / "export" / "README.md").read_text()
    assert all(f"- `{file.name}`" in card for file in (run / "export").iterdir() if file.name != "README.md")
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"
    last = metadata["model-index"][0]["results"][-1]
    assert last["task"] == {"type": "image-classification"}
    assert last["metrics"] == [{"type": "accuracy", "value": pytest.approx(report["test_accuracy"] / 100, abs=1e-4)}]
    assert f"{report['pruned']['macs']:,}" in body and "model-int8.onnx" in body
    assert command(monkeypatch, "export", str(run), "--int8", "--to", "pt2") == 2
    assert command(monkeypatch, "export", str(run), "--to", "safetensors", "--input", "3,9,9") == 2
    assert "--input for a MODEL alone" in capsys.readouterr().err


def test_a_run_is_benched_dense_against_pruned(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--batch", "1", "--batch", "4", "--seconds", "0.1", "--json")
    assert command(monkeypatch, "bench", str(run), *options) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(row["network"], row["batch"]) for row in record["measurements"]] == [
        ("dense", 1), (str(run), 1), ("dense", 4), (str(run), 4),
    ]  # fmt: skip
    for row in record["measurements"]:
        assert 0 < row["lower_quartile_ms"] <= row["median_ms"] <= row["upper_quartile_ms"]
        assert row["examples_per_second"] == pytest.approx(1e3 * row["batch"] / row["median_ms"])
    dense, pruned = record["networks"]["dense"], record["networks"][str(run)]
    assert all(pruned[key] < dense[key] for key in ("parameters", "file_bytes"))


def test_a_saved_model_is_named_with_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_model("small-cnn", num_classes=10, in_channels=1).eval()
    structure = icycle.trace(model, torch.randn(1, 1, 8, 8))
    icycle.save(icycle.prune(model, structure, SubNetwork.random(structure, 0.5, 0)), tmp_path / "saved")
    source, file = f"small-cnn={tmp_path / 'saved'}", tmp_path / "weights"
    assert command(monkeypatch, "export", source, "--to", "safetensors", "--output", str(file)) == 0
    assert file.with_suffix(".safetensors").is_file()
    assert command(monkeypatch, "bench", source, "--batch", "1", "--seconds", "0.1") == 0
    assert "examples/s" in capsys.readouterr().out
    assert command(monkeypatch, "bench", "small-cnn", "--target", "abacus") == 2


@pytest.mark.parametrize("reference", ["timm/mobilenetv3_small_050", "small-cnn", "acme_both:small"])
def test_a_saved_model_says_its_classes_and_inputs(
    acme: None, reference: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_model(reference, num_classes=7, in_channels=1).eval()
    inputs = torch.randn(1, 1, 32, 32)
    size = sum(parameter.numel() for parameter in model.parameters())
    structure = icycle.trace(model, inputs)
    icycle.save(icycle.prune(model, structure, SubNetwork.random(structure, 0.5, 0)), "saved")
    shape = ("--input", "1,32,32") if ":" in reference else ()
    assert (
        command(monkeypatch, "bench", f"{reference}=saved", "--batch", "1", "--seconds", "0.1", "--json", *shape) == 0
    )
    networks = json.loads(capsys.readouterr().out)["networks"]
    assert networks["dense"]["parameters"] == size > networks[f"{reference}=saved"]["parameters"]


def test_a_saved_network_of_words_is_shown_words(
    acme: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_model("tiny-transformer", num_classes=12).eval()
    structure = icycle.trace(model, torch.randint(12, (1, 6)))
    icycle.save(icycle.prune(model, structure, SubNetwork.random(structure, 0.5, 0)), "saved")
    assert command(monkeypatch, "export", "tiny-transformer=saved", "--output", "words") == 0
    for verb in ("bench", "export"):
        assert command(monkeypatch, verb, "tiny-transformer") == 2
        assert "Expected 'tiny-transformer' to take float32[1, 3, 32, 32], but it gave" in capsys.readouterr().err


def test_every_network_is_a_row_and_has_the_same_inputs(
    acme: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "run", "both.yaml", "--output", "dense") == 0
    settings = ("--set", "data.name=acme_both:keywords", "--set", "model.name=acme_both:Both")
    assert command(monkeypatch, "run", "both.yaml", *settings, "--output", "other") == 0
    capsys.readouterr()
    quick = ("--batch", "1", "--seconds", "0.1", "--json")
    assert command(monkeypatch, "bench", "dense", "dense", *quick) == 0
    found = json.loads(capsys.readouterr().out)
    names = ["dense", "dense (2)", "dense (3)"]
    assert [row["network"] for row in found["measurements"]] == list(found["networks"]) == names
    assert command(monkeypatch, "bench", "dense", "other", *quick) == 2
    assert "Expected sources of the same inputs" in capsys.readouterr().err


def measured(*readings: float) -> Measurement:
    return Measurement("a", "torch", 1, Timing(readings), None)


def test_no_ratio_is_given_where_intervals_overlap_or_noise_is_great() -> None:
    steady = measured(10.0, 10.1, 10.2, 9.9, 10.0)
    assert verdict(steady, measured(5.0, 5.05, 5.1, 4.95, 5.0)) == "50.0%"
    assert verdict(steady, measured(10.0, 10.1, 10.2, 9.9, 10.0)) == "no difference shown"
    assert verdict(steady, measured(2.5, 3.0, 5.0, 20.0, 40.0)) == "too noisy to compare"


def test_the_peak_of_activations_is_that_of_the_tensors_alive() -> None:
    model = nn.Sequential(nn.Linear(4, 100, bias=False), nn.Linear(100, 10, bias=False))
    assert peak_activation_bytes(model, torch.randn(2, 4)) == 2 * (100 + 10) * 4
