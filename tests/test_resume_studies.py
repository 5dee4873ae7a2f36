"""Studies that were cut off: they end with the same settings, and no trial that is done is done again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import icycle.tuning._tune
from command import command
from cut_runs import CutError, Steps, ask_to_stop, at, cut, no_space, records, steady, weights
from icycle.errors import RecipeError, RunInterruptedError, TuningError
from icycle.methods import TuneSettings
from icycle.recipes import Recipe, RunFolder, load_recipe, run_recipe, tune_recipe
from icycle.report._runs import read_run_record
from icycle.runs import list_runs
from icycle.training import Record, Trainer

TINY = (
    "data.augment=false",
    "model.width=8",
    "data.subset=400",
    "data.validation=0.2",
    "method.round_to=1",
    "train.epochs=1",
)
STUDY = TuneSettings(trials=7, share=0.5, drop=30.0)


def study_recipe(*overrides: str) -> Recipe:
    return load_recipe(
        "digits-ice", [*TINY, "method.final_epochs=1", "method.drop=null", "method.confidence=null", *overrides]
    )


def study(folder: RunFolder, *listeners: Callable[[Record], None], resume: bool = False) -> str:
    """The settings that `icycle tune` finds."""
    output = folder.path.with_suffix(".yaml")
    tune_recipe(study_recipe(), STUDY, folder, output, listeners=listeners, resume=resume)
    return "".join(line for line in output.read_text().splitlines(keepends=True) if not line.startswith("#"))


def told(folder: RunFolder) -> list[Any]:
    return [steady(record) for record in records(folder, "trial")]


class Runs:
    """Counts the trials that are run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, measure = 0, icycle.tuning._tune._Trials._measure

        def counted(trials: Any, values: Any) -> Any:
            self.count += 1
            return measure(trials, values)

        monkeypatch.setattr(icycle.tuning._tune._Trials, "_measure", counted)


@pytest.fixture(scope="module")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    folder = RunFolder(tmp_path_factory.mktemp("study") / "whole")
    found = study(folder)
    assert len({record["cost"] for record in records(folder, "trial")}) > 2
    return folder, found


def test_a_study_is_listed_and_is_no_run(whole_study: tuple[RunFolder, str], tmp_path: Path) -> None:
    (entry,) = list_runs(whole_study[0].path)
    assert (entry.state, entry.method, entry.problem) == ("finished", "tune", None)
    with pytest.raises(RecipeError, match="is that of a study"):
        read_run_record(whole_study[0].path)
    cut_off = tmp_path / "cut"
    shutil.copytree(whole_study[0].path, cut_off)
    lines = whole_study[0].metrics.read_text().splitlines(keepends=True)
    (cut_off / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert list_runs(cut_off)[0].state == "interrupted"


@pytest.mark.parametrize("number", [1, 2, 6, 7])
def test_a_study_ends_with_the_same_settings_and_no_trial_is_done_again(
    number: int, whole_study: tuple[RunFolder, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "cut")
    with pytest.raises(CutError):
        study(folder, at("trial", number, cut))
    monkeypatch.setattr(Trainer, "_run_epoch", lambda *_, **__: pytest.fail("the dense network is trained"))
    runs = Runs(monkeypatch)
    assert study(folder, resume=True) == whole_study[1]
    assert runs.count == STUDY.trials - number
    assert told(folder) == told(whole_study[0])


def test_a_study_that_is_asked_to_stop_in_a_trial_begins_that_trial_anew(
    whole_study: tuple[RunFolder, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "cut")
    with monkeypatch.context() as patch:
        Steps(patch, 12, ask_to_stop)
        with pytest.raises(RunInterruptedError, match="SIGUSR1"):
            study(folder)
    done = len(folder.trials.read_text().splitlines()) if folder.trials.exists() else 0
    runs = Runs(monkeypatch)
    assert study(folder, resume=True) == whole_study[1]
    assert runs.count == STUDY.trials - done


def test_a_line_that_was_cut_off_is_a_trial_to_do_and_damage_is_said(
    whole_study: tuple[RunFolder, str], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "cut")
    with pytest.raises(CutError):
        study(folder, at("trial", 3, cut))
    whole = folder.trials.read_text()
    folder.trials.write_text(whole[:-20])
    assert study(folder, resume=True) == whole_study[1]
    other = RunFolder(tmp_path / "damaged")
    with pytest.raises(CutError):
        study(other, at("trial", 1, cut))
    other.trials.write_text("no trial\n" + whole)
    with pytest.raises(TuningError, match=r"finished trials in .* remove the file"):
        study(other, resume=True)
    other.trials.write_text(re.sub('"beta": [^,}]*', '"beta": 1.0', whole))
    with pytest.raises(TuningError, match="Expected trial 0 to have the values that are kept"):
        study(other, resume=True)


def test_a_full_disk_costs_a_study_no_finished_trial(
    whole_study: tuple[RunFolder, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "cut")
    with monkeypatch.context() as patch:
        listen = at("trial", 3, lambda: patch.setattr("icycle.tuning._kept.append_line", no_space))
        with pytest.raises(TuningError, match=r"Expected to keep a trial in .*No space left on device"):
            study(folder, listen)
    runs = Runs(monkeypatch)
    assert study(folder, resume=True) == whole_study[1]
    assert runs.count == STUDY.trials - 3


def test_a_study_and_a_run_are_not_taken_for_each_other(tmp_path: Path) -> None:
    folder, unfinished = RunFolder(tmp_path / "study"), RunFolder(tmp_path / "run")
    with pytest.raises(CutError):
        run_recipe(study_recipe(), unfinished, listeners=[at("epoch", 1, cut)])
    with pytest.raises(CutError):
        study(folder, at("trial", 1, cut))
    with pytest.raises(RecipeError, match=r"Expected a run in .* icycle tune --resume"):
        run_recipe(folder.saved_recipe(), folder, resume=True)
    with pytest.raises(RecipeError, match=r"Expected a study in .* icycle run --resume"):
        tune_recipe(unfinished.saved_recipe(), STUDY, unfinished, tmp_path / "x.yaml", resume=True)
    with folder.locked(), pytest.raises(RecipeError, match="another process"):
        study(folder, resume=True)
    folder.study.write_text(folder.study.read_text().replace("30.0", "31.0"))
    with pytest.raises(RecipeError, match="was changed"):
        study(folder, resume=True)


def test_a_run_that_tunes_itself_goes_on_in_its_trials_and_in_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = study_recipe("method.tune={trials: 3, share: 0.5, drop: 30}", "method.steps=group")
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    run_recipe(recipe, whole)
    with pytest.raises(CutError):
        run_recipe(recipe, folder, listeners=[at("trial", 2, cut)])
    with pytest.raises(CutError):
        run_recipe(recipe, folder, listeners=[at("step", 2, cut)], resume=True)
    monkeypatch.setattr("icycle.recipes._run.tune", lambda *_, **__: pytest.fail("it is tuned again"))
    run_recipe(recipe, folder, resume=True)
    assert weights(folder) == weights(whole)
    assert told(folder) == told(whole)
    assert [record["number"] for record in records(folder, "step")] == [1, 2, 3, 4]


def test_workers_that_share_a_study_do_their_own_trials_only_once(tmp_path: Path) -> None:
    shared = STUDY.model_copy(update={"storage": f"sqlite:///{tmp_path / 'study.db'}", "trials": 3})

    def work(name: str, *listeners: Callable[[Record], None], resume: bool = False) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        tune_recipe(study_recipe(), shared, folder, tmp_path / f"{name}.yaml", listeners=listeners, resume=resume)
        return folder

    with pytest.raises(CutError):
        work("one", at("trial", 1, cut))
    work("two")
    work("one", resume=True)
    kept = [RunFolder(tmp_path / name).trials.read_text().splitlines() for name in ("one", "two")]
    assert [len(lines) for lines in kept] == [3, 3]


def test_the_commands_end_with_a_code_of_their_own_and_need_nothing_but_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [part for value in (*TINY, "method.drop=null") for part in ("--set", value)]
    with monkeypatch.context() as patch:
        Steps(patch, 8, ask_to_stop)
        assert command(patch, "tune", "digits-ice", "--trials", "1", "--share", "0.5", *options) == 75
    assert "To go on: icycle tune --resume runs/digits-ice-tune-1" in capsys.readouterr().out
    assert command(monkeypatch, "tune", "--resume", "runs/digits-ice-tune-1") == 0
    assert load_recipe("digits-ice-tuned.yaml").train.epochs == 1
    assert command(monkeypatch, "tune", "--resume", "runs/digits-ice-tune-1") == 2
    assert "came to its end" in capsys.readouterr().err
    assert command(monkeypatch, "tune", "--resume", "runs/digits-ice-tune-1", "--trials", "3") == 2
    assert "nothing but --resume" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        Steps(patch, 8, ask_to_stop)
        assert command(patch, "run", "digits-ice", *options) == 75
    assert command(monkeypatch, "run", "--resume", "runs/digits-ice-1") == 0
