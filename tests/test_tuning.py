"""Self-tuning: the study, the objective, hopeless trials, and what a run and the command make of it."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from icycle.cli import main
from icycle.errors import RecipeError, TrainingError, TuningError
from icycle.methods import Context, Effort, IceMethod, MethodResult, Removal, TuneSettings
from icycle.methods.ice._space import PAPERS_GRID, IceSpace
from icycle.recipes import Recipe, RunFolder, load_recipe, run_recipe, tune_recipe
from icycle.training import Recorder, TrainSettings
from icycle.tuning import open_study, tune
from icycle.zoo import build_model, load_data

SMALL = ("train.epochs=1", "model.width=8", "data.subset=600", "data.validation=0.2", "method.round_to=1")
METHOD = IceMethod(ratio=0.5, threshold=10.0, epochs=1.0, final_epochs=2, drop=None)


@pytest.fixture
def context() -> Context:
    data = load_data("digits", batch_size=32, subset=600, validation=0.2)
    model = build_model("small-cnn", num_classes=10, in_channels=1, width=8)
    return Context(model, data, TrainSettings(epochs=1, batch_size=32), Recorder(), trained=True)


class Simulated:
    """Stands in for a run: a lower threshold costs more fine-tunes, and loses less."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, break_at: float = 0.0) -> None:
        self.thresholds: list[float] = []
        self.ended: list[float] = []
        self._break_at = break_at
        monkeypatch.setattr(IceMethod, "run", lambda method, context: self.run(method, context))

    def run(self, method: IceMethod, context: Context) -> MethodResult:
        assert len(context.data.train.images) == 48  # a tenth of 480
        assert not context.recorder.records
        self.thresholds.append(method.threshold)
        if method.threshold < self._break_at:
            raise TrainingError("no longer finite")
        effort = 0.0
        for number in range(1, 11):
            effort += 5.0 / method.threshold
            done = {"epochs": effort, "examples_read": 0, "steps": number}
            context.recorder.write("step", number=number, of=10, effort=done)
        self.ended.append(method.threshold)
        removal = Removal(0, 100, 50, accuracy_before=90.0, accuracy_after=0.0, macs_kept=0.5)
        whole = Effort(effort + method.final_epochs, examples_read=0, steps=10)
        return MethodResult(90.0 - method.threshold / 10, (removal,), effort=whole)


SETTINGS = TuneSettings(trials=25, share=0.1, drop=3.0)


def test_the_cheapest_trial_within_the_limit_wins(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(monkeypatch)
    outcome = tune(METHOD, context, SETTINGS)
    assert simulated.thresholds[:2] == [METHOD.threshold, 60.0]  # its own settings come first, then no fine-tune at all
    assert outcome.feasible
    assert outcome.cost == min(trial.cost or 0 for trial in outcome.trials if trial.outcome == "kept the limit")
    assert outcome.method.final_epochs == 1
    assert 15.0 < outcome.method.threshold <= 30.0
    assert outcome.drop == pytest.approx(outcome.method.threshold / 10)
    assert outcome.method.tune is None
    assert len(outcome.trials) == 25


def test_the_cost_is_counted_in_passes(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    Simulated(monkeypatch)
    outcome = tune(METHOD, context, TuneSettings(trials=1, share=0.1, drop=3.0))
    effort = 10 * 5.0 / 10.0 + 2
    calibration = 2 * 10 * METHOD.calibration_batches * 32  # for the statistics, and to compensate
    expected = (3 * 480 * effort + calibration) / (3 * 480)
    assert outcome.cost == pytest.approx(expected)


def test_hopeless_trials_are_stopped_and_broken_ones_survived(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = Simulated(monkeypatch, break_at=9.0)
    outcome = tune(METHOD, context, SETTINGS)
    endings = [trial.outcome for trial in outcome.trials]
    assert "stopped: too slow" in endings
    assert "failed: training broke down" in endings
    assert len(simulated.ended) < len(simulated.thresholds)
    stopped = [trial for trial in outcome.trials if trial.outcome == "stopped: too slow"]
    assert all(trial.cost is not None and trial.cost > outcome.cost for trial in stopped)


def test_where_none_keeps_the_limit_the_one_that_loses_least_is_taken(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = Simulated(monkeypatch)
    outcome = tune(METHOD, context, TuneSettings(trials=8, share=0.1, drop=0.01))
    assert not outcome.feasible
    assert "no trial kept it" in outcome.summary()
    assert outcome.method.threshold == min(simulated.ended)


def test_equal_seeds_give_equal_trials(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    Simulated(monkeypatch)
    before = torch.get_rng_state()
    first, second = (tune(METHOD, context, SETTINGS) for _ in range(2))
    assert [trial.values for trial in first.trials] == [trial.values for trial in second.trials]
    assert first.method == second.method
    assert torch.equal(torch.get_rng_state(), before)


def test_the_paper_s_grid_is_an_option(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    Simulated(monkeypatch)
    outcome = tune(METHOD, context, TuneSettings(trials=4, share=0.1, drop=3.0, sampler="grid"))
    for trial in outcome.trials:
        assert all(trial.values[name] in PAPERS_GRID[name] for name in PAPERS_GRID)


def test_workers_share_one_study(context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Simulated(monkeypatch)
    settings = TuneSettings(trials=3, share=0.1, drop=3.0, storage=f"sqlite:///{tmp_path}/study.db")
    first, second = (tune(METHOD, context, settings) for _ in range(2))
    assert [trial.number for trial in first.trials + second.trials] == [0, 1, 2, 3, 4, 5]
    assert second.cost <= first.cost
    assert len(open_study(METHOD, context, settings).trials) == 6


@pytest.mark.parametrize(
    "storage", ["sqlite:////nowhere/at/all.db", "nodatabase://x", "mysql://me:secret@nowhere.invalid/x"]
)
def test_a_storage_that_cannot_be_reached_is_a_clear_error(context: Context, storage: str) -> None:
    with pytest.raises(TuningError, match="Expected a study storage") as caught:
        open_study(METHOD, context, TuneSettings(storage=storage))
    assert "secret" not in str(caught.value)


def test_a_share_of_less_than_a_batch_is_a_clear_error(context: Context) -> None:
    with pytest.raises(TuningError, match="share"):
        tune(METHOD, context, TuneSettings(trials=1, share=0.01))


def test_a_share_of_less_than_a_batch_is_refused_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="share"):
        run_recipe(recipe_of("method.tune=3"), RunFolder(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_workers_that_make_the_tables_at_once_try_again(
    context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    create, calls = optuna.create_study, []

    def racing(**named: Any) -> Any:
        calls.append(named)
        if len(calls) < 3:
            raise RuntimeError("UNIQUE constraint failed: alembic_version.version_num")
        return create(**named)

    monkeypatch.setattr(optuna, "create_study", racing)
    settings = TuneSettings(share=0.5, storage=f"sqlite:///{tmp_path}/study.db")
    assert open_study(METHOD, context, settings).trials == []
    assert len(calls) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"curve": {"base": 0.0001}},
        {"freeze": 0.9},
        {"epochs": 1.0, "threshold": 1.0, "confidence": None},
        {"epochs": 0.0},
        {"final_epochs": 1},
    ],
)
def test_the_first_trial_has_the_recipe_s_own_settings(context: Context, settings: dict[str, Any]) -> None:
    method = IceMethod(ratio=0.5, **settings)
    space = IceSpace(method, context)
    own = space.method(space.first[0])
    assert own.curve.highest == pytest.approx(method.curve.base or 0.1 * context.train.optimizer.learning_rate)
    assert (own.freeze, own.final_epochs) == (method.freeze, method.final_epochs)
    assert own.threshold == (method.threshold if method.epochs else 60.0)
    assert len(space.first) == (2 if method.epochs else 1)
    study = optuna.create_study()
    study.enqueue_trial(dict(space.first[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # values out of their ranges are drawn anew, with a warning
        assert dict(space.suggest(study.ask())) == dict(space.first[0])


def test_a_trial_s_values_make_a_method_and_back(context: Context) -> None:
    space = IceSpace(METHOD, context)
    values = {"threshold": 12.0, "freeze": 0.25, "base": 0.04, "delta_share": 0.5, "p": 0.3, "beta": 20.0}
    values["final_epochs"] = 2
    method = space.method(values)
    assert IceSpace(method, context).own_values() == values
    assert method.curve.delta == 0.02
    assert space.method({**values, "freeze": 0.04}).freeze == 0


# Runs


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("digits-ice", [*SMALL, *overrides])


def kinds(folder: RunFolder) -> list[str]:
    return [json.loads(line)["kind"] for line in folder.metrics.read_text().splitlines()]


def test_a_run_tunes_itself_counts_the_time_and_leaves_a_recipe(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    report = run_recipe(recipe_of("method.tune={trials: 2, share: 0.5, drop: 50}"), folder)
    assert report.seconds["tuning"] > 0
    assert kinds(folder).count("trial") == 2
    tuned = load_recipe(str(folder.tuned))
    assert report.settings["method"] == tuned.method.model_dump(mode="json"), "what was run"
    assert isinstance(tuned.method, IceMethod)
    assert tuned.method.tune is None
    assert folder.tuned.read_text().startswith("# icycle run ")
    assert tuned.train == recipe_of().train
    run_recipe(tuned, RunFolder(tmp_path / "again"))


def test_tuning_leaves_the_network_as_it_is(tmp_path: Path, context: Context) -> None:
    before = {name: value.clone() for name, value in context.model.state_dict().items()}
    outcome = tune(METHOD, context, TuneSettings(trials=1, share=0.5, drop=90.0))
    assert all(torch.equal(value, before[name]) for name, value in context.model.state_dict().items())
    assert not context.data.test.opened
    assert outcome.trials[0].outcome == "kept the limit"


def test_an_unreachable_storage_stops_before_any_training(tmp_path: Path) -> None:
    recipe = recipe_of("method.tune={trials: 2, share: 0.5, storage: 'sqlite:////nowhere/at/all.db'}")
    assert isinstance(recipe.method, IceMethod)
    assert recipe.method.tune is not None
    seen: list[Any] = []
    with pytest.raises(TuningError, match="study storage"):
        run_recipe(recipe, RunFolder(tmp_path / "run"), listeners=[seen.append])
    with pytest.raises(TuningError, match="study storage"):
        tune_recipe(
            recipe, recipe.method.tune, RunFolder(tmp_path / "study"), tmp_path / "tuned.yaml", listeners=[seen.append]
        )
    assert seen == []
    assert list(tmp_path.iterdir()) == []


def test_only_what_can_be_tuned_is(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="'ice' can"):
        tune_recipe(load_recipe("digits"), TuneSettings(), RunFolder(tmp_path / "study"), tmp_path / "tuned.yaml")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "tuned.yaml").write_text("mine")
    with pytest.raises(RecipeError, match="exists"):
        tune_recipe(recipe_of(), TuneSettings(), RunFolder(tmp_path / "study"), tmp_path / "tuned.yaml")


@pytest.mark.parametrize("override", ["method.tune=-1", "method.tune={trials: 0}", "method.tune={trails: 3}"])
def test_impossible_tuning_is_a_clear_error(override: str) -> None:
    with pytest.raises(RecipeError, match=r"method\.tune"):
        recipe_of(override)


def test_the_command_writes_a_tuned_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    options = [*(part for value in SMALL for part in ("--set", value)), "--output", "tuned[b].yaml"]
    monkeypatch.setattr(
        sys, "argv", ["icycle", "tune", "digits-ice", "--trials", "1", "--share", "0.5", "--drop", "50", *options]
    )
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    shown = capsys.readouterr().out
    assert "trial   0  kept the limit" in shown
    assert "Tuned in" in shown
    assert "To use them: icycle run 'tuned[b].yaml'" in shown
    assert load_recipe("tuned[b].yaml").method.model_dump()["tune"] is None


def test_no_threshold_is_tried_that_the_split_is_too_small_for(context: Context) -> None:
    outcome = tune(METHOD, context, TuneSettings(trials=6, share=0.1, drop=90.0))
    assert all(trial.outcome != "failed: split too small" for trial in outcome.trials)
    with pytest.raises(TuningError, match="too small"):
        tune(METHOD, context, TuneSettings(trials=2, share=0.1, drop=90.0, sampler="grid"))
