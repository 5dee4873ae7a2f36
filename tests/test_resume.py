"""Runs in steps that were cut off: they end as ones that were not, and what they had done is not done again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import icycle.methods.ice._ice
import icycle.tuning._tune
from command import command
from icycle.errors import IcycleError, RecipeError, RunInterruptedError, TrainingError, TuningError
from icycle.methods import TuneSettings
from icycle.recipes import Recipe, RunFolder, load_recipe, run_recipe, tune_recipe
from icycle.training import Record, Trainer

SMALL = (
    "data.augment=false",
    "model.width=8",
    "data.subset=400",
    "data.validation=0.2",
    "method.round_to=1",
)
TINY = (*SMALL, "train.epochs=1")
# trained long enough to have something to lose
ICE = (
    *SMALL,
    "train.epochs=8",
    "method.final_epochs=2",
    "method.freeze=0.4",
    "method.threshold=1",
    "method.confidence=null",
)


class CutError(Exception):
    """The process ends here."""


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("digits-ice", [*ICE, *overrides])


def records(folder: RunFolder, *kinds: str) -> list[Record]:
    written = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [record for record in written if record["kind"] in kinds]


def weights(folder: RunFolder) -> bytes:
    return (folder.model / "model.safetensors").read_bytes()


def steady(record: Record) -> Any:
    """What of a record does not depend on the time."""
    return {key: value for key, value in record.items() if key not in ("seconds",)}


def at(kind: str, number: int, action: Callable[[], Any]) -> Callable[[Record], None]:
    """Listens, and acts at the record of this kind and number, from 1."""
    seen = 0

    def listen(record: Record) -> None:
        nonlocal seen
        seen += record["kind"] == kind
        if record["kind"] == kind and seen == number:
            action()

    return listen


def cut() -> None:
    raise CutError


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("ice") / "whole")
    run_recipe(recipe_of(), folder)
    fine_tunes = records(folder, "fine-tune")
    assert [record["step"] for record in fine_tunes] == [2, 3, 4, 4, 4]  # only where they must be
    assert any(record["replayed"] for record in fine_tunes)  # stored outputs are part of it
    return folder


@pytest.mark.parametrize(
    ("kind", "number", "again"),
    [("step", 1, 4), ("step", 3, 2), ("fine-tune", 1, 3), ("fine-tune", -2, 0), ("fine-tune", -1, 0)],
)
def test_a_step_that_is_done_is_never_done_again(
    kind: str, number: int, again: int, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "cut")
    fine_tunes = len(records(whole, "fine-tune"))
    number = number if number > 0 else fine_tunes + 1 + number
    with pytest.raises(CutError):
        run_recipe(recipe_of(), folder, listeners=[at(kind, number, cut)])
    removed: list[object] = []
    remove = icycle.methods.ice._ice.remove
    monkeypatch.setattr("icycle.methods.ice._ice.remove", lambda *a, **k: removed.append(a) or remove(*a, **k))
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("the dense network is trained"))
    run_recipe(recipe_of(), folder, resume=True)
    assert len(removed) == again
    assert weights(folder) == weights(whole)
    kinds = ("epoch", "step", "fine-tune", "end")
    assert [steady(record) for record in records(folder, *kinds)] == [
        steady(record) for record in records(whole, *kinds)
    ]


class Steps:
    """Counts the steps of training, and acts after the one of this number, from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int = 0, action: Callable[[], Any] = cut) -> None:
        self.count, step = 0, Trainer._train_step

        def counted(trainer: Trainer, batch: Any) -> Any:
            loss = step(trainer, batch)
            self.count += 1
            if self.count == number:
                action()
            return loss

        monkeypatch.setattr(Trainer, "_train_step", counted)


def last_step(folder: RunFolder) -> int:
    """The steps of training in a whole run: of the dense network, and after that."""
    epochs = [record["epochs"] for record in records(folder, "fine-tune")]
    per_epoch = 320 // 64
    return len(records(folder, "epoch")) * per_epoch + sum(max(1, round(share * per_epoch)) for share in epochs)


@pytest.mark.parametrize("share", [0.1, 0.65, 0.8, 0.87, 0.99])
def test_a_signal_saves_within_a_step_and_no_batch_is_trained_on_twice(
    share: float, whole: RunFolder, tmp_path: Path
) -> None:
    folder, steps = RunFolder(tmp_path / "cut"), last_step(whole)
    with pytest.MonkeyPatch.context() as patch:
        Steps(patch, round(share * steps), ask_to_stop)
        with pytest.raises(RunInterruptedError, match="SIGUSR1"):
            run_recipe(recipe_of(), folder)
    with pytest.MonkeyPatch.context() as patch:
        rest = Steps(patch)
        run_recipe(recipe_of(), folder, resume=True)
    assert rest.count == steps - round(share * steps)
    assert weights(folder) == weights(whole)
    assert list(folder.checkpoint.glob("course-*")) == []


OTHERS = {
    "sequential": ("method.confidence=0.8", "method.threshold=12"),
    "published": (
        "method={name: ice-published, budget: {macs: 0.5}, steps: group, round_to: 1, threshold: 1, final_epochs: 2}",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_answers_and_frozen_layers_are_kept_too(name: str, tmp_path: Path) -> None:
    whole, recipe = RunFolder(tmp_path / "whole"), recipe_of(*OTHERS[name])
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        run_recipe(recipe, whole)
    assert {record["reason"] for record in records(whole, "fine-tune")} >= {"step", "final"}
    for left in (12, 7, 2):  # in the last step's fine-tune, in the first epoch of the final one, in its second
        folder = RunFolder(tmp_path / f"cut-{left}")
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, steps.count - left, ask_to_stop)
            with pytest.raises(RunInterruptedError):
                run_recipe(recipe, folder)
        with pytest.MonkeyPatch.context() as patch:
            rest = Steps(patch)
            run_recipe(recipe, folder, resume=True)
        assert rest.count == left
        assert weights(folder) == weights(whole)
        kinds = ("step", "fine-tune", "end")
        assert [*map(steady, records(folder, *kinds))] == [*map(steady, records(whole, *kinds))]


@pytest.fixture
def unfinished(tmp_path: Path) -> RunFolder:
    """A run that was cut off after its third step."""
    folder = RunFolder(tmp_path / "cut")
    with pytest.raises(CutError):
        run_recipe(recipe_of(), folder, listeners=[at("step", 4, cut)])
    return folder


def damage(checkpoint: Path) -> None:
    content = bytearray((checkpoint / "state.safetensors").read_bytes())
    content[-5] ^= 1  # one bit
    (checkpoint / "state.safetensors").write_bytes(content)


def checkpoints(folder: RunFolder) -> list[Path]:
    """The newest first."""
    return sorted(folder.checkpoint.glob("part-*"), reverse=True)


def test_a_damaged_step_gives_way_to_the_one_before(unfinished: RunFolder, whole: RunFolder) -> None:
    damage(checkpoints(unfinished)[0])
    run_recipe(recipe_of(), unfinished, resume=True)
    assert weights(unfinished) == weights(whole)
    assert len(records(unfinished, "damaged-checkpoint")) == 1


def test_where_all_are_damaged_that_is_said(unfinished: RunFolder) -> None:
    for checkpoint in checkpoints(unfinished):
        damage(checkpoint)
    with pytest.raises(TrainingError, match="as are those before it; start the run anew"):
        run_recipe(recipe_of(), unfinished, resume=True)


def test_a_damaged_course_is_begun_anew(whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "cut")
    with monkeypatch.context() as patch:
        Steps(patch, 42, ask_to_stop)
        with pytest.raises(RunInterruptedError):
            run_recipe(recipe_of(), folder)
    assert list(folder.checkpoint.glob("course-*/part-*"))
    for checkpoint in folder.checkpoint.glob("course-*/part-*"):
        damage(checkpoint)
    run_recipe(recipe_of(), folder, resume=True)
    assert weights(folder) == weights(whole)
    assert len(records(folder, "damaged-checkpoint")) == 1


def test_two_processes_a_changed_recipe_and_other_settings_are_refused(unfinished: RunFolder) -> None:
    with unfinished.locked(), pytest.raises(RecipeError, match="another process"):
        run_recipe(recipe_of(), unfinished, resume=True)
    with pytest.raises(RecipeError, match="differ: method"):
        run_recipe(recipe_of("method.threshold=5"), unfinished, resume=True)
    unfinished.recipe.write_text(unfinished.recipe.read_text().replace("threshold: 1", "threshold: 5"))
    with pytest.raises(RecipeError, match="was changed"):
        run_recipe(unfinished.saved_recipe(), unfinished, resume=True)


def no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def open_to_read(path: Path, mode: str = "r", **options: Any) -> Any:
    return OPEN(path, mode, **options) if mode.startswith("r") else no_space()


OPEN = Path.open
FULL = {
    "checkpoint": ("icycle.training._checkpoint.save_file", no_space),
    "record": ("pathlib.Path.open", open_to_read),
}


@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_is_a_clear_error_and_the_run_goes_on(
    what: str, unfinished: RunFolder, whole: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = checkpoints(unfinished)
    with monkeypatch.context() as patch:
        patch.setattr(*FULL[what])
        with pytest.raises(IcycleError, match="No space left on device"):
            run_recipe(recipe_of(), unfinished, resume=True)
    assert checkpoints(unfinished) == kept
    run_recipe(recipe_of(), unfinished, resume=True)
    assert weights(unfinished) == weights(whole)


def test_a_folder_that_cannot_be_written_is_a_clear_error(
    unfinished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:  # the superuser, who may run the tests, may write anywhere
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with pytest.raises(RecipeError, match=r"Expected to write to .*Permission denied"):
        run_recipe(recipe_of(), unfinished, resume=True)


@pytest.mark.parametrize(("version", "name"), [("1", "state.safetensors"), ("2 or 3", "step-000000010-epoch-00001/x")])
def test_checkpoints_of_an_older_version_are_refused_in_words(version: str, name: str, unfinished: RunFolder) -> None:
    shutil.rmtree(unfinished.checkpoint)
    old = unfinished.checkpoint / name
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    with pytest.raises(TrainingError, match=f"version 4 .* but got version {version}.* start the run anew in another"):
        run_recipe(recipe_of(), unfinished, resume=True)
    assert old.exists()


# Studies

STUDY = TuneSettings(trials=7, share=0.5, drop=30.0)


def study_recipe(*overrides: str) -> Recipe:
    return load_recipe("digits-ice", [*TINY, "method.final_epochs=1", "method.confidence=null", *overrides])


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


def test_a_study_and_a_run_are_not_taken_for_each_other(unfinished: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "study")
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
    recipe = study_recipe("method.tune={trials: 3, share: 0.5, drop: 30}")
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
    options = [part for value in TINY for part in ("--set", value)]
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
