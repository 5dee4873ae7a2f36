"""Trackers: what they are sent, and that a run does not depend on them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cut_runs import at, interrupt
from icycle.errors import RecipeError
from icycle.recipes import RunFolder, load_recipe, run_recipe

TINY = ("method.name=dense", "model.width=8", "data.subset=300", "train.epochs=2")


class Notebook(GeneralTracker):
    """Writes down what it is told; all of them into one place."""

    name = "notebook"
    requires_logging_directory = False
    log_: ClassVar[list[tuple[str, Any]]] = []
    fails: ClassVar[str | None] = None

    def __init__(self, run: str) -> None:
        super().__init__()
        self._note("run", run)

    def _note(self, what: str, value: Any) -> None:
        self.log_.append((what, value))
        if self.fails == what:
            raise ConnectionError("no answer")

    @property
    def tracker(self) -> Any:
        return self.log_

    def start(self) -> None:
        self._note("start", None)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._note("settings", values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._note("log", (step, values))

    def finish(self) -> None:
        self._note("finish", None)


@pytest.fixture
def notebook() -> list[tuple[str, Any]]:
    Notebook.log_.clear()
    Notebook.fails = None
    return Notebook.log_


OWN = "track=test_tracking:Notebook"


@pytest.fixture(autouse=True)
def _this_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one place that `test_tracking` is imported from, so that its class is this one."""
    monkeypatch.setitem(__import__("sys").modules, "test_tracking", __import__("sys").modules[__name__])


def numbers(record: dict[str, Any], prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found.update(numbers(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float):
            found[prefix + key] = value
    return found


def test_a_tracker_is_sent_every_number_of_the_metrics(notebook: list[tuple[str, Any]], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "mine")
    run_recipe(load_recipe("digits", (*TINY, OWN)), folder)
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    sent = [value for what, value in notebook if what == "log"]
    assert [step for step, _ in sent] == [1, 2, 3, 4]
    for (_, values), record in zip(sent, records, strict=True):
        kind = record.pop("kind")
        assert values == numbers(record, f"{kind}/")
    assert "epoch/metrics/accuracy" in sent[1][1]
    assert [what for what, _ in notebook if what != "log"] == ["run", "start", "settings", "finish"]
    assert notebook[0] == ("run", "mine")
    assert dict(notebook)["settings"]["train.epochs"] == 2


def test_tensorboard_shows_the_curves(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "mine")
    run_recipe(load_recipe("digits", (*TINY, "track=tensorboard")), folder)
    (events,) = {path.parent for path in (folder.path / "tracking" / "digits").glob("events.out.tfevents.*")}
    read = EventAccumulator(str(events)).Reload()
    shown = [event.value for event in read.Scalars("epoch/validation_accuracy")]
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert shown == pytest.approx([r["validation_accuracy"] for r in records if r["kind"] == "epoch"], rel=1e-6)


def test_a_resumed_run_goes_on_counting(notebook: list[tuple[str, Any]], tmp_path: Path) -> None:
    recipe, folder = load_recipe("digits", (*TINY, OWN)), RunFolder(tmp_path / "mine")

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, folder, listeners=[at("epoch", 2, interrupt)])
    assert notebook[-1] == ("finish", None)
    notebook.clear()
    run_recipe(recipe, folder, resume=True)
    steps = [value[0] for what, value in notebook if what == "log"]
    assert steps == list(range(steps[0], len(folder.metrics.read_text().splitlines()) + 1))
    assert steps[0] == 3  # after the start and the first epoch


class Known(Notebook):
    """Stands in for W&B, whose tracker is given keywords, and has a run with an id."""

    name = "wandb"

    def __init__(self, project: str, **keywords: str) -> None:
        super().__init__(project)
        self._note("keywords", keywords)
        self.run = SimpleNamespace(id=keywords.get("id", "4711"))


def test_a_resumed_run_goes_on_in_the_same_run_of_a_tracker(
    notebook: list[tuple[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Known)
    for module in ("accelerate.tracking", "icycle.recipes._track"):
        monkeypatch.setattr(f"{module}.get_available_trackers", lambda: [LoggerType.WANDB])
    recipe, folder = load_recipe("digits", (*TINY, "track=wandb")), RunFolder(tmp_path / "mine")
    Notebook.fails = "log"  # and is left out
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, folder, listeners=[at("epoch", 1, interrupt)])
    run_recipe(recipe, folder, resume=True)
    first = {"name": "mine", "dir": str(folder.path / "tracking")}
    assert [value for what, value in notebook if what == "keywords"] == [
        first,
        {**first, "id": "4711", "resume": "allow"},
    ]


def cut_and_resumed(tracker: str, folder: RunFolder) -> list[int]:
    """A run whose settings have names that not every tracker takes; the steps that it tells."""
    odd = 'train.weight_decay={"*.weight": 0.1}'
    recipe = load_recipe("digits", (*TINY, odd, f"track={tracker}"))
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, folder, listeners=[at("epoch", 1, interrupt)])
    run_recipe(recipe, folder, resume=True)
    epochs = [json.loads(line)["kind"] == "epoch" for line in folder.metrics.read_text().splitlines()]
    return [number for number, told in enumerate(epochs, start=1) if told]


@pytest.mark.filterwarnings("ignore")  # its own
def test_mlflow_has_one_run_with_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    steps = cut_and_resumed("mlflow", RunFolder(tmp_path / "mine"))
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'digits'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "mine"
    assert run.data.params["train.weight_decay._.weight"] == "0.1"
    history = client.get_metric_history(run.info.run_id, "epoch/validation_accuracy")
    assert sorted({metric.step for metric in history}) == steps


@pytest.mark.filterwarnings("ignore")  # its own
def test_wandb_has_one_run_in_the_run_s_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = RunFolder(tmp_path / "mine")
    cut_and_resumed("wandb", folder)
    runs = [path.name for path in (folder.path / "tracking" / "wandb").glob("offline-run-*/run-*.wandb")]
    assert len(runs) == 2
    assert len(set(runs)) == 1


@pytest.mark.parametrize("action", ["log", "finish"])
def test_a_tracker_that_fails_does_not_end_the_run(
    action: str, notebook: list[tuple[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notebook.fails = action
    with caplog.at_level(logging.WARNING):
        run_recipe(load_recipe("digits", (*TINY, OWN)), RunFolder(tmp_path / "mine"))
    assert [what for what, _ in notebook].count(action) == 1
    assert "no answer" in caplog.text


def test_a_tracker_that_cannot_start_is_an_error_and_leaves_no_folder(
    notebook: list[tuple[str, Any]], tmp_path: Path
) -> None:
    Notebook.fails = "start"
    with pytest.raises(RecipeError, match=r"start the tracker test_tracking:Notebook.*no answer"):
        run_recipe(load_recipe("digits", (*TINY, OWN)), RunFolder(tmp_path / "mine"))
    assert not (tmp_path / "mine").exists()


def test_a_missing_package_is_one_error_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icycle.recipes._track.get_available_trackers", lambda: ["tensorboard"])
    recipe = load_recipe("digits", (*TINY, "track=[wandb, comet_ml, tensorboard]"))
    with pytest.raises(RecipeError, match=r"wandb and comet_ml to be installed.*pip install wandb comet-ml$"):
        run_recipe(recipe, RunFolder(tmp_path / "mine"))
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(("value", "words"), [("wandbb", "did you mean 'wandb'"), ("json:loads", "GeneralTracker")])
def test_an_unknown_tracker_is_a_fault_of_the_recipe(value: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe("digits", (f"track={value}",))
