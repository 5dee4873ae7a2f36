"""The command: what it prints, what it leaves, and how it fails."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import icycle
from command import command
from icycle.cli import app
from icycle.cli._progress import Progress
from icycle.cli._stop import resumable
from icycle.errors import RunInterruptedError
from icycle.recipes import RunFolder

SETTINGS = ("method.name=dense", "train.epochs=1", "model.width=8", "data.subset=300")
SHORT = ("run", "digits", *(part for value in SETTINGS for part in ("--set", value)))


def test_help_names_every_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("run", "inspect", "recipes"))


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, icycle.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_python_dash_m_is_the_command() -> None:
    shown = subprocess.run([sys.executable, "-m", "icycle", "recipes"], check=True, capture_output=True, text=True)
    assert "digits" in shown.stdout
    failed = subprocess.run([sys.executable, "-m", "icycle", "run", "digts"], capture_output=True, text=True)
    assert (failed.returncode, failed.stderr[:6]) == (2, "error:")


def test_recipes_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "recipes") == 0
    shown = capsys.readouterr().out
    assert "digits" in shown
    assert "fashion" in shown


def test_a_run_ends_with_its_table_and_its_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *SHORT, "--seed", "3") == 0
    shown = capsys.readouterr().out
    for word in ("epoch", "MACs", "latency, batch 64", "test", "evaluation", "runs/digits-1"):
        assert word in shown
    (row,) = (line for line in shown.splitlines() if line.startswith("| digits | dense | seed 3 | test accuracy "))
    assert row.endswith(" s |")
    report = json.loads((tmp_path / "runs" / "digits-1" / "report.json").read_text())
    assert (report["recipe"], report["seed"], report["criterion"]) == ("digits", 3, "")
    assert report["settings"]["data"]["subset"] == 300


def test_a_folder_s_name_is_printed_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *SHORT, "--output", "new[lr=1]") == 0
    assert "Everything is in new[lr=1]\n" in capsys.readouterr().out
    with Progress(Console()) as progress:
        progress.show({"kind": "weights", "source": "new[lr=1]/model", "fresh": []})
    assert "weights from new[lr=1]/model\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stop", "code"), [(KeyboardInterrupt(), 130), (RunInterruptedError("Stopped by SIGTERM in new[lr=1]"), 75)]
)
def test_how_to_go_on_can_be_copied(stop: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, resumable(Console(), RunFolder(Path("new[lr=1]"))):
        raise stop
    shown = capsys.readouterr().out
    assert caught.value.exit_code == code
    assert shown.endswith("To go on: icycle run --resume 'new[lr=1]'\n")
    assert code == 130 or "in new[lr=1];" in shown


def test_after_the_first_epoch_a_run_says_how_long_it_will_take(capsys: pytest.CaptureFixture[str]) -> None:
    epoch = {"kind": "epoch", "epochs": 5, "loss": 1.0, "validation_accuracy": 50.0, "metric": "accuracy"}
    with Progress(Console()) as progress:
        for number in (1, 2, 5):
            progress.show({**epoch, "epoch": number, "seconds": {"train": 20.0, "evaluation": 10.0}})
    shown = capsys.readouterr().out
    assert shown.count("to go") == 1
    assert shown.index("epoch   1/5") < shown.index("about 2 min 0 s of training to go") < shown.index("epoch   2/5")


def test_a_run_of_one_epoch_is_over_before_it_could_be_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    epoch = {
        "epoch": 1,
        "epochs": 1,
        "loss": 1.0,
        "validation_accuracy": 50.0,
        "metric": "accuracy",
        "seconds": {"train": 9},
    }
    with Progress(Console()) as progress:
        progress.show({"kind": "epoch", **epoch})
    assert "to go" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "digts"), "did you mean 'digits'"),
        (("run", "digits", "--set", "train.epoch=1"), "did you mean 'epochs'"),
        (("run", "digits", "--output", "."), "never overwritten"),
        (("run", "digits", "--output", "file/run"), "Not a directory: file"),
        (("run", "digits", "--output", "locked/run"), "Permission denied: locked/run; choose another folder"),
        (("run", "digits", "--output", "made", "--set", "model={name: broken:make}"), "gave KeyError: 'width'"),
        (("run", "digits", "--output", "made", "--set", "data.name=broken:make"), "gave KeyError: 'width'"),
        (("inspect", "broken:make", "--input", "4"), "gave KeyError: 'width'"),
        (("run", "--resume", "nowhere"), "in nowhere, but there is no such folder"),
        (("run",), "RECIPE"),
        (("--import", "nowhere.at_all", "recipes"), "No module named 'nowhere'"),
        (("inspect", "resnet65"), "did you mean 'resnet56'"),
        (("inspect", "resnet20", "--input", "3,x"), "3,224,224"),
        (("inspect", "resnet20", "--input", ""), "3,224,224"),
        (("inspect", "broken:leave", "--input", "4"), "gave SystemExit: 3"),
        (("run", "digits", "--output", "made", "--set", "model={name: broken:leave}"), "gave SystemExit: 3"),
        (("run", "digits", "--output", "made", "--set", "model={name: broken:empty}"), "Sequential has none"),
        (("verify", "small-cnn", "--ratio", "-1"), "in [0, 1)"),
        (("report", "nowhere"), "nowhere has no report.json"),
        (("bench", "nowhere"), "Expected a model's name"),
        (("export", "small-cnn", "--to", "nothing"), "Expected a format"),
        (("tune", "digits"), "as 'ice' can"),
        (("compare", "digits", "--seeds", "a"), "0,1,2"),
        (("inspect", "nowhere:make", "--input", "3,8,8"), "No module named 'nowhere'"),
        (("inspect", "mine:make"), "--input"),
    ],
)
def test_an_error_is_one_message_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken.py").write_text(
        "from torch import nn\n\ndef make():\n    return {}['width']\n\ndef leave():\n    raise SystemExit(3)\n\n"
        "def empty():\n    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10))\n"
    )
    refuse_below(tmp_path / "locked", monkeypatch)
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert command(monkeypatch, *arguments) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.startswith("error: ")
    assert "Traceback" not in shown
    left = {path for path in tmp_path.iterdir() if path.name != "__pycache__"}
    assert sorted(left) == before, "a refused command leaves nothing"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("inspect",),
        ("run", "digits", "one too many"),
        ("run", "digits", "--nonsense"),
        ("report",),
        ("verify", "small-cnn", "--ratio", "x"),
        ("tune", "digits-ice", "--trials", "0"),
        ("bench", "small-cnn", "--batch", "0"),
        ("bench", "small-cnn", "--threads", "-1"),
        ("bench", "small-cnn", "--seconds", "-1"),
        ("bench", "small-cnn", "--precision", "float8"),
        ("compare", "digits", "--workers", "0"),
    ],
)
def test_arguments_that_no_verb_takes_are_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert command(monkeypatch, *arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Usage: ")
    assert "Traceback" not in shown


def refuse_below(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `folder`, in which nothing can be made: its permissions would not stop the superuser."""
    make = Path.mkdir

    def mkdir(path: Path, *arguments: int, **options: bool) -> None:
        if folder in path.absolute().parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        make(path, *arguments, **options)

    folder.mkdir()
    monkeypatch.setattr(Path, "mkdir", mkdir)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that has no room")
def test_a_full_disk_is_one_message_and_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "metrics", Path("/dev/full"))
    assert command(monkeypatch, "run", "digits", "--set", "method.name=dense") == 2
    assert "No space left on device; make room" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"icycle {icycle.__version__}\n"


def test_the_doctor_knows_versions_devices_and_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.metadata.version

    def version(package: str) -> str:
        if package == "optuna":
            raise importlib.metadata.PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert command(monkeypatch, "doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["icycle"] == icycle.__version__
    assert facts["versions"]["torch"] == real("torch")
    assert "cpu" in facts["devices"]
    assert facts["parts"]["tune"] == {"packages": {"optuna": ""}, "install": "pip install 'icycle[tune]'"}
    assert facts["targets"]["torch"] == ""
    assert command(monkeypatch, "doctor") == 0
    shown = capsys.readouterr().out
    assert "optuna is missing" in shown
    assert "pip install 'icycle[tune]'\n" in shown


def test_colours_respect_no_color(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    command(monkeypatch, "run", "digts")
    assert "\x1b[1;31m" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    command(monkeypatch, "run", "digts")
    assert "31m" not in capsys.readouterr().err


def test_the_shell_can_complete_commands() -> None:
    typed = {"_ICYCLE_COMPLETE": "complete_bash", "COMP_WORDS": "icycle re", "COMP_CWORD": "1"}
    shown = CliRunner().invoke(app, [], prog_name="icycle", env=typed)
    assert (shown.exit_code, shown.output.split()) == (0, ["report", "recipes"])


def test_inspect_prints_groups_and_reasons(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "inspect", "small-cnn", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    pinned = [group for group in found["groups"] if not group["prunable"]]
    assert found["macs"] > 0
    assert any(group["prunable"] and group["members"] for group in found["groups"])
    assert pinned
    assert all(group["reason"] for group in pinned)
    assert command(monkeypatch, "inspect", "small-cnn") == 0
    shown = capsys.readouterr().out
    assert "stem.0.weight" in shown
    assert "prunable groups" in shown


def test_a_model_of_ones_own_is_inspected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "own_network.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert command(monkeypatch, "inspect", "own_network:make", "--input", "4", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["size"] for group in found["groups"] if group["prunable"]] == [8]


def test_a_factory_that_a_recipe_names_is_called_as_a_run_would(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "acme_factory.py").write_text(
        "from torch import nn\n\ndef make(num_classes, in_channels, width=8):\n"
        "    return nn.Sequential(nn.Linear(in_channels, width), nn.ReLU(), nn.Linear(width, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert command(monkeypatch, "inspect", "acme_factory:make", "--input", "5", "--json") == 0
    assert json.loads(capsys.readouterr().out)["macs"] == 5 * 8 + 8 * 10
