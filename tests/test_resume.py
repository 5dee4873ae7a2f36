"""Runs in steps that were cut off: they end as ones that were not, and what they had done is not done again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import icycle.methods.ice._ice
from cut_runs import CutError, Steps, ask_to_stop, at, cut, no_space, records, steady, weights
from icycle.errors import IcycleError, RecipeError, RunInterruptedError, TrainingError
from icycle.recipes import Recipe, RunFolder, load_recipe, run_recipe
from icycle.training import Trainer

# trained long enough to have something to lose
ICE = (
    "data.augment=false",
    "model.width=8",
    "data.subset=400",
    "data.validation=0.2",
    "train.epochs=8",
    "method.round_to=1",
    "method.steps=4",
    "method.epochs=1",
    "method.drop=null",
    "method.final_epochs=2",
    "method.freeze=0.4",
    "method.threshold=1",
    "method.confidence=null",
)


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("digits-ice", [*ICE, *overrides])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("ice") / "whole")
    run_recipe(recipe_of(), folder)
    fine_tunes = records(folder, "fine-tune")
    assert [record["step"] for record in fine_tunes] == [1, 2, 3, 4, 4]  # only where they must be
    assert any(record["replayed"] for record in fine_tunes)  # stored outputs are part of it
    return folder


@pytest.mark.parametrize(
    ("kind", "number", "again"),
    [("step", 1, 4), ("step", 3, 2), ("fine-tune", 1, 4), ("fine-tune", -2, 0), ("fine-tune", -1, 0)],
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

    def counted(*arguments: Any, **named: Any) -> Any:
        left = remove(*arguments, **named)  # raises where the removal is declined
        removed.append(left)
        return left

    monkeypatch.setattr("icycle.methods.ice._ice.remove", counted)
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("the dense network is trained"))
    run_recipe(recipe_of(), folder, resume=True)
    assert len(removed) == again
    assert weights(folder) == weights(whole)
    kinds = ("epoch", "step", "fine-tune", "end")
    assert [steady(record) for record in records(folder, *kinds)] == [
        steady(record) for record in records(whole, *kinds)
    ]


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
