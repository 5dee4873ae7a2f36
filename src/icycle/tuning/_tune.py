"""The objective, its trials, and what is made of them.

    minimise    what a run costs, in epochs of training                     (counted by the method's search space)
    subject to  accuracy of the dense network - accuracy at the end <= drop    (points, on the validation split)

A trial trains on a share of the training data; it is counted as it would be in a whole run, and stopped as soon as it
must cost more than the best that keeps the limit. What a method lets be tuned, and what counts as its cost, is its own
affair: see `icycle.methods.SearchSpace`.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from icycle.errors import DataError, TrainingError, TuningError
from icycle.methods import Context, Method, MethodResult, SearchSpace, TuneSettings, Values
from icycle.training import Record, Recorder, require_no_stop
from icycle.tuning._kept import Ending, KeptTrials, Trial
from icycle.tuning._study import OVER_THE_LIMIT, WORKER, forget_unfinished, open_study, require_space, tuning_share

if TYPE_CHECKING:
    import optuna

__all__ = ["Outcome", "Trial", "tune"]


@dataclass(frozen=True)
class Outcome:
    """The tuned method, the trials of this worker, and the seconds that they took."""

    method: Method
    trials: tuple[Trial, ...]
    cost: float
    drop: float
    limit: float
    seconds: float

    @property
    def feasible(self) -> bool:
        """Does the best trial keep the limit? If none did, it is the one that lost least."""
        return self.drop <= self.limit

    def summary(self) -> str:
        """One sentence for the head of a recipe."""
        kept = "within" if self.feasible else "beyond (no trial kept it)"
        return (
            f"Tuned in {self.seconds:.0f} s by {len(self.trials)} trials: a run costs as much as {self.cost:.3g} "
            f"epochs of training, {self.drop:.2f} points lost, {kept} the limit of {self.limit:g}."
        )


def tune(
    method: Method,
    context: Context,
    settings: TuneSettings,
    study: optuna.Study | None = None,
    *,
    kept: Path | None = None,
) -> Outcome:
    """Find settings for `method` on copies of the trained `context.model`, which is left as it is.

    Args:
        study: opened by the settings unless given. All of the time counts as the stage "tuning" of the run.
        kept: a file of the finished trials. Where it has some, from an earlier process with the same settings, they are
            told again and not done again, and the study goes on as it would have.

    Raises:
        TuningError: the method has nothing to tune, the storage cannot be reached, the share leaves no batch, the kept
            trials are of another study, or no trial came to its end.
        RunInterruptedError: SIGTERM or SIGUSR1 came within `icycle.training.stoppable`; finished trials are kept.
    """
    began = time.perf_counter()
    space = require_space(method, context)
    with context.recorder.clock.stage("tuning"):
        study = study or open_study(method, context, settings)
        trials = _Trials(space, context, settings, study, kept)
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore", category=UserWarning)
            if trials.left:
                study.optimize(trials.run, n_trials=trials.left, callbacks=[lambda *_: require_no_stop()])
    values, cost, drop = _best(study, settings.drop)
    seconds = time.perf_counter() - began + trials.seconds_before
    return Outcome(space.method(values), tuple(trials.done), cost, drop, settings.drop, seconds)


class _Trials:
    """Runs trials, and remembers them.

    A study in memory is run again from its first trial on, and what is kept answers in the place of the runs: the
    sampler, whose draws depend on the seed and on the answers, comes to where it was. A storage knows what it was told.
    """

    def __init__(
        self, space: SearchSpace, context: Context, settings: TuneSettings, study: optuna.Study, kept: Path | None
    ) -> None:
        self._space = space
        self._context = context
        self._settings = settings
        self._study = study
        self._data = tuning_share(context.data, settings.share, context.seed)
        self._kept = KeptTrials(kept)
        self._worker = None if kept is None else str(kept.resolve())
        self.done: list[Trial] = []
        self.left = settings.trials
        self.seconds_before = sum(trial.seconds for trial in self._kept.found)
        if settings.storage is not None:
            forget_unfinished(study, self._worker)
            for told in self._kept.found:
                self._note(told, told_before=True)
            self.left = max(settings.trials - len(self._kept.found), 0)
        if settings.sampler == "tpe" and not study.trials:
            for values in space.first:
                study.enqueue_trial(dict(values), skip_if_exists=True)

    def run(self, trial: optuna.Trial) -> float:
        """The cost of one trial; Optuna's function to minimise."""
        import optuna

        if self._worker is not None:
            trial.set_user_attr(WORKER, self._worker)  # before anything else: it may be killed at any moment
        values = self._suggest(trial)
        told = self._kept.answer(trial.number, values) if self._settings.storage is None else None
        done = told or self._tried(trial.number, values)
        self._note(done, told_before=told is not None)
        if done.drop is None or done.cost is None:
            raise optuna.TrialPruned
        trial.set_user_attr("drop", done.drop)
        trial.set_user_attr(OVER_THE_LIMIT, done.drop - self._settings.drop)
        return done.cost

    def _tried(self, number: int, values: Values) -> Trial:
        """A run with these values, and what it came to."""
        began = time.perf_counter()

        def ended(outcome: Ending, cost: float | None = None, drop: float | None = None) -> Trial:
            return Trial(number, values, outcome, cost, drop, time.perf_counter() - began)

        try:
            cost, drop = self._measure(values)
        except _TooSlow as stop:
            return ended("stopped: too slow", stop.cost)
        except TrainingError:
            return ended("failed: training broke down")
        except DataError:
            return ended("failed: split too small")
        return ended("kept the limit" if drop <= self._settings.drop else "lost too much", cost, drop)

    def _suggest(self, trial: optuna.Trial) -> Values:
        if self._settings.sampler == "grid":
            grid = self._space.grid
            return {name: float(trial.suggest_categorical(name, list(values))) for name, values in grid.items()}
        return self._space.suggest(trial)

    def _measure(self, values: Values) -> tuple[float, float]:
        """Cost and drop of a whole run with these values, on a copy."""
        torch.manual_seed(self._context.seed)
        context = replace(
            self._context,
            model=copy.deepcopy(self._context.model),
            data=self._data,
            recorder=Recorder(listeners=[partial(self._watch, values, self._fastest())]),
            checkpoint=None,
            trained=True,
        )
        result = self._space.trial(values).run(context)
        if result.effort is None:
            raise TuningError(f"Expected a method that counts its effort, but {type(result).__name__}.effort is None")
        return self._space.cost(result.effort), self._lost(result)

    def _lost(self, result: MethodResult) -> float:
        """Points of the metric that decides, from the dense network to the end."""
        points = self._context.task.points
        return points(result.removals[0].accuracy_before) - points(result.validation_accuracy)

    def _watch(self, values: Values, fastest: float | None, record: Record) -> None:
        """Listens to the run, and stops it once it is hopeless."""
        least = None if fastest is None else self._space.least_cost(values, record)
        if least is not None and fastest is not None and least > fastest:
            raise _TooSlow(least)

    def _fastest(self) -> float | None:
        """The cost of the best trial so far that keeps the limit."""
        costs = [cost for _, cost, drop in _complete(self._study) if drop <= self._settings.drop]
        return min(costs, default=None)

    def _note(self, trial: Trial, *, told_before: bool) -> None:
        """Keep and record a finished trial; of one that is kept already, its seconds are counted."""
        recorder = self._context.recorder
        if told_before:
            recorder.clock.add({"tuning": trial.seconds})
        else:
            self._kept.add(trial)
        self.done.append(trial)
        recorder.write("trial", **trial.__dict__)


class _TooSlow(Exception):  # noqa: N818 - a signal
    """The trial must cost more than the best one."""

    def __init__(self, cost: float) -> None:
        super().__init__(cost)
        self.cost = cost


def _complete(study: optuna.Study) -> Sequence[tuple[dict[str, Any], float, float]]:
    """(values, cost, drop) of the trials that came to their end."""
    return [
        (trial.params, float(trial.value), float(trial.user_attrs["drop"]))
        for trial in study.trials
        if trial.state.name == "COMPLETE" and trial.value is not None and "drop" in trial.user_attrs
    ]


def _best(study: optuna.Study, limit: float) -> tuple[dict[str, Any], float, float]:
    """(values, cost, drop): the cheapest that keeps the limit, else the one that loses least."""
    found = _complete(study)
    if not found:
        raise TuningError(
            f"Expected at least one of {len(study.trials)} trials to come to its end, but training broke down, or the "
            "validation split was too small for the threshold, in all; lower the learning rates (method.curve), raise "
            "data.validation, or evaluate exactly (method.confidence: null)"
        )
    return min(found, key=lambda trial: (max(trial[2] - limit, 0.0), trial[1]))
