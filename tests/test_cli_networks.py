"""`icycle bench` and `icycle export`: on a run's folder, on a model's name, on a saved model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import icycle
from command import command
from icycle.latency import Measurement, Timing, peak_activation_bytes, verdict
from icycle.structure import SubNetwork
from icycle.zoo import build_model


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
    assert yaml.safe_load(head)["license"] == "mit"
    report = json.loads((run / "report.json").read_text())
    assert f"{report['pruned']['macs']:,}" in body and "model-int8.onnx" in body
    assert command(monkeypatch, "export", str(run), "--int8", "--to", "pt2") == 2


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
