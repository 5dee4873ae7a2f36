"""`icycle runs`: every state that a run can be in, told from its folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command import command
from icycle.errors import RecipeError
from icycle.recipes import RunFolder, load_recipe, run_recipe
from icycle.report import Latency, NetworkFacts, Report
from icycle.runs import list_runs

SMALL = ("model.width=8", "data.subset=300", "train.epochs=2", "method.round_to=1", "method.budget.macs=0.6")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of one-cycle."""
    path = tmp_path_factory.mktemp("runs") / "digits-1"
    run_recipe(load_recipe("digits", SMALL), RunFolder(path))
    return path


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    """A folder with that run in it."""
    shutil.copytree(finished, tmp_path / "runs" / "digits-1")
    return tmp_path / "runs"


def unfinished(runs: Path, name: str, records: int) -> Path:
    """A run that came to so many records."""
    path = runs / name
    shutil.copytree(runs / "digits-1", path)
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text("".join(lines[:records]) + '{"kind": "ep')
    for file in ("report.json", "result.json"):
        (path / file).unlink()
    return path


def test_a_finished_run_is_told_from_its_report(runs: Path) -> None:
    report = json.loads((runs / "digits-1" / "report.json").read_text())
    (run,) = list_runs(runs)
    assert (run.path.name, run.state, run.recipe, run.method) == ("digits-1", "finished", "digits", "one-cycle")
    assert (run.metric, run.value) == ("accuracy", report["test_accuracy"])
    assert run.macs == report["pruned"]["macs"] / report["dense"]["macs"] < 1
    assert run.latency == report["pruned"]["latency"]["1"]["median"]
    assert run.seconds == sum(seconds for stage, seconds in report["seconds"].items() if stage != "rest") > 0


@pytest.mark.parametrize(("pruned", "shown"), [((1.0, 1.1), "(50%)"), ((1.9, 2.1), "no clear change")])
def test_a_speedup_is_told_where_the_latencies_clearly_differ(
    pruned: tuple[float, float],
    shown: str,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lower, upper = pruned
    latencies = {"dense": Latency(2.0, 1.9, 2.1, 10), "pruned": Latency(lower, lower, upper, 10)}
    facts = {name: NetworkFacts(2, 2, 2, {1: latency}, memory=2) for name, latency in latencies.items()}
    report = Report("digits", "one-cycle", **facts, removals=(), validation_accuracy=1, test_accuracy=1, seconds={})
    (runs / "digits-1" / "report.json").write_text(report.to_json())
    assert command(monkeypatch, "runs", str(runs)) == 0
    assert shown in " ".join(capsys.readouterr().out.split())
    assert (list_runs(runs)[0].speedup is None) == (shown == "no clear change")


def test_an_unfinished_run_is_told_from_its_records(runs: Path) -> None:
    records = [json.loads(line) for line in (runs / "digits-1" / "metrics.jsonl").read_text().splitlines()]
    removal = next(number for number, record in enumerate(records) if record["kind"] == "removal")
    epoch = next(number for number, record in enumerate(records) if number > removal and record["kind"] == "epoch")
    unfinished(runs, "digits-2", 0)
    unfinished(runs, "digits-10", epoch + 1)
    first, begun, half = list_runs(runs)
    assert [run.path.name for run in (first, begun, half)] == ["digits-1", "digits-2", "digits-10"]
    assert (begun.state, begun.method, begun.value, begun.macs) == ("interrupted", "one-cycle", None, None)
    assert half.value == records[epoch]["validation_accuracy"]
    assert half.macs == first.macs
    assert half.seconds is not None and first.seconds is not None and 0 < half.seconds < first.seconds


def step(number: int, *, accuracy: float | None, fine_tuned: float) -> dict[str, Any]:
    seconds = {"search": 1.0, "fine-tuning": 2.0, "rest": 8.0}
    decision = {"fire": bool(fine_tuned), "accuracy": accuracy}
    costs = {"macs_kept": 1 - number / 10, "seconds": seconds}
    return {"kind": "step", "number": number, "decision": decision, "fine_tuned": fine_tuned, **costs}


def fine_tune(reason: str) -> dict[str, Any]:
    return {"kind": "fine-tune", "reason": reason, "epochs": 1.0, "seconds": 4.0}


START = {"kind": "start", "metric": "accuracy"}
EPOCH = {"kind": "epoch", "validation_accuracy": 90.0, "metric": "accuracy", "seconds": {"train": 16.0, "rest": 8.0}}
REMOVAL = {"kind": "removal", "macs_kept": 0.8, "accuracy_before": 90.0, "accuracy_after": 70.0}


@pytest.mark.parametrize(
    ("records", "value", "macs", "seconds"),
    [
        ([EPOCH, step(1, accuracy=80.0, fine_tuned=0)], 80.0, 0.9, 19.0),
        ([step(1, accuracy=80.0, fine_tuned=0)], 80.0, 0.9, 3.0),  # of a network that came trained
        ([EPOCH, fine_tune("step"), step(1, accuracy=80.0, fine_tuned=1)], None, 0.9, 19.0),  # it was judged before
        ([EPOCH, step(1, accuracy=None, fine_tuned=0), step(2, accuracy=None, fine_tuned=0)], None, 0.8, 22.0),
        ([EPOCH, step(1, accuracy=80.0, fine_tuned=0), fine_tune("final"), fine_tune("final")], 80.0, 0.9, 27.0),
        ([EPOCH, REMOVAL, fine_tune("final")], 70.0, 0.8, 20.0),
        ([EPOCH, REMOVAL, EPOCH], 90.0, 0.8, 32.0),
    ],
)
def test_an_unfinished_run_shows_what_belongs_together(
    records: list[Any], value: float | None, macs: float, seconds: float, runs: Path
) -> None:
    path = unfinished(runs, "digits-2", 0)
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (START, *records)))
    run = list_runs(path)[0]
    assert (run.value, run.metric, run.seconds) == (value, None if value is None else "accuracy", seconds)
    assert run.macs == pytest.approx(macs)


def test_a_run_is_running_while_a_process_holds_it(runs: Path) -> None:
    path = unfinished(runs, "digits-2", 2)
    code = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        assert list_runs(runs)[1].state == "running"
        other.stdin.write("\n")
    assert list_runs(runs)[1].state == "interrupted"


def break_recipe(path: Path) -> None:
    (path / "recipe.yaml").write_bytes(b"\xff\xfe: [")


def cut_recipe(path: Path) -> None:
    (path / "recipe.yaml").write_text("name: digits\n")


def break_report(path: Path) -> None:
    (path / "report.json").write_text("{")


def empty_report(path: Path) -> None:
    (path / "report.json").write_text("[]")


def break_metrics(path: Path) -> None:
    (path / "metrics.jsonl").write_text("no json\n")


def lose_recipe(path: Path) -> None:
    (path / "recipe.yaml").unlink()


def lose_report(path: Path) -> None:
    (path / "report.json").unlink()


@pytest.mark.parametrize(
    "damage", [break_recipe, cut_recipe, lose_recipe, break_report, empty_report, lose_report, break_metrics]
)
def test_a_damaged_run_is_one_line(
    damage: Any, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "digits-1", runs / "digits-2")
    damage(runs / "digits-2")
    good, bad = list_runs(runs)
    assert (good.state, bad.state) == ("finished", "damaged")
    assert bad.problem and "\n" not in bad.problem
    assert command(monkeypatch, "runs", str(runs)) == 0
    assert "damaged" in capsys.readouterr().out


def test_runs_are_found_in_folders_below_and_half_made_ones_are_not(runs: Path) -> None:
    shutil.copytree(runs / "digits-1", runs / "compared" / "seed-0")
    shutil.copytree(runs / "digits-1", runs / ".digits-3.123")
    (runs / "notes").mkdir()
    assert [str(run.path.relative_to(runs)) for run in list_runs(runs)] == ["compared/seed-0", "digits-1"]
    assert len(list_runs(runs / "digits-1")) == 1


@pytest.mark.parametrize("name", ["recipe.yaml", "report.json", "metrics.jsonl"])
def test_a_file_of_the_user_s_own_hides_no_run(name: str, runs: Path) -> None:
    (runs / name).write_text("{}\n")
    assert [run.path for run in list_runs(runs)] == [runs / "digits-1"]
    (runs / "digits-1" / "recipe.sha256").unlink()  # of a run that has none
    assert [run.state for run in list_runs(runs)] == ["finished"]


def test_runs_behind_links_are_found_once_by_their_own_names(runs: Path, tmp_path: Path) -> None:
    (runs / "again").symlink_to(runs / "digits-1")
    (runs / "around").symlink_to(runs)
    shutil.copytree(runs / "digits-1", tmp_path / "elsewhere" / "digits-2")
    (runs / "linked").symlink_to(tmp_path / "elsewhere")
    (runs / "nowhere").symlink_to(tmp_path / "gone")
    assert [str(run.path.relative_to(runs)) for run in list_runs(runs)] == ["digits-1", "linked/digits-2"]


def test_the_command_shows_a_line_for_each(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished(runs, "digits-2", 0)
    (run, _) = list_runs(runs)
    assert command(monkeypatch, "runs", str(runs)) == 0
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("one-cycle", f"{run.value:.2f} %", f"{run.macs:.1%}", "interrupted"))
    assert command(monkeypatch, "runs", str(runs), "--json") == 0
    read = json.loads(capsys.readouterr().out)
    assert [entry["state"] for entry in read] == ["finished", "interrupted"]
    assert read[0]["value"] == run.value


def test_a_folder_s_name_is_listed_as_it_is(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "digits-1").rename(runs / "digits[lr=0.05]")
    assert command(monkeypatch, "runs", str(runs)) == 0
    assert "digits[lr=0.05]" in capsys.readouterr().out


def test_no_runs_and_no_folder_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "runs", str(tmp_path)) == 0
    assert "No runs" in capsys.readouterr().out
    with pytest.raises(RecipeError, match="nowhere"):
        list_runs(tmp_path / "nowhere")


def test_the_list_does_not_wait_for_torch() -> None:
    code = "import sys, icycle.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
