"""The objective, its trials, and what is made of them.

    minimise    time / time of the iterative baseline
    subject to  accuracy of the dense network - accuracy at the end <= drop    (points, on the validation split)

Time is counted in passes, not read off a clock, so that a rerun decides alike and a busy machine misleads nobody: a
training example costs three (one forward, two backward; less what frozen layers save), one that is only looked at costs
one. The baseline trains for `epochs` after every step and evaluates the validation split each time. A trial trains on a
share of the training data and recalibrates on one batch; both are counted as they would be in a whole run.

A trial is stopped as soon as it must cost more than the best that keeps the limit: what remains costs at least the
final fine-tune, or, where layers may be frozen, its forward passes.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from icycle.errors import DataError, TrainingError, TuningError
from icycle.methods import Context, IceMethod, TuneSettings
from icycle.training import Record, Recorder
from icycle.tuning._space import HIGHEST_THRESHOLD, lowest_threshold, own_values, suggest, with_values
from icycle.tuning._study import OVER_THE_LIMIT, open_study
from icycle.zoo import Data, stratified_split

if TYPE_CHECKING:
    import optuna

__all__ = ["Outcome", "Trial", "tune"]


Ending = Literal[
    "kept the limit", "lost too much", "stopped: too slow", "failed: training broke down", "failed: split too small"
]


@dataclass(frozen=True)
class Trial:
    """One trial: its values, what it cost (1 is the iterative baseline), and the points of accuracy it lost."""

    number: int
    values: dict[str, float]
    outcome: Ending
    cost: float | None
    drop: float | None
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The tuned method, the trials of this worker, and the seconds that they took."""

    method: IceMethod
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
            f"Tuned in {self.seconds:.0f} s by {len(self.trials)} trials: {self.cost:.3f} of the iterative baseline's "
            f"passes, {self.drop:.2f} points lost, {kept} the limit of {self.limit:g}."
        )


def tune(method: IceMethod, context: Context, settings: TuneSettings, study: optuna.Study | None = None) -> Outcome:
    """Find settings for `method` on copies of the trained `context.model`, which is left as it is.

    The first trial is the method's own settings, the second the same with the highest threshold. `study` is opened by
    the settings unless given. All of the time counts as the stage "tuning" of the run.

    Raises:
        TuningError: the storage cannot be reached, the share leaves no batch, or no trial came to its end.
    """
    began = time.perf_counter()
    with context.recorder.clock.stage("tuning"):
        study = study or open_study(settings, context.seed)
        trials = _Trials(method, context, settings, study)
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore", category=UserWarning)
            study.optimize(trials.run, n_trials=settings.trials)
    values, cost, drop = _best(study, settings.drop)
    seconds = time.perf_counter() - began
    return Outcome(with_values(method, values), tuple(trials.done), cost, drop, settings.drop, seconds)


class _Trials:
    """Runs trials, and remembers them."""

    def __init__(self, method: IceMethod, context: Context, settings: TuneSettings, study: optuna.Study) -> None:
        self._method = method
        self._context = context
        self._settings = settings
        self._study = study
        self._data = _share(context.data, settings.share, context.seed)
        self.done: list[Trial] = []
        self._lowest = lowest_threshold(method.confidence, len(context.data.validation.images))
        if settings.sampler == "tpe" and not study.trials:
            own = own_values(method, self._lowest)
            for values in (own, {**own, "threshold": HIGHEST_THRESHOLD}):
                study.enqueue_trial(values, skip_if_exists=True)

    def run(self, trial: optuna.Trial) -> float:
        """The cost of one trial; Optuna's function to minimise."""
        import optuna

        grid = self._settings.sampler == "grid"
        values = suggest(trial, grid, self._lowest, self._method.final_epochs)
        meter = _Meter(with_values(self._method, values), self._context, self._fastest())
        note = partial(self._note, trial.number, values, time.perf_counter())
        try:
            cost, drop = self._measure(values, meter)
        except _TooSlow as stop:
            note("stopped: too slow", stop.cost)
            raise optuna.TrialPruned from None
        except (TrainingError, DataError) as error:
            note("failed: training broke down" if isinstance(error, TrainingError) else "failed: split too small")
            raise optuna.TrialPruned from None
        trial.set_user_attr("drop", drop)
        trial.set_user_attr(OVER_THE_LIMIT, drop - self._settings.drop)
        kept = drop <= self._settings.drop
        note("kept the limit" if kept else "lost too much", cost, drop)
        return cost

    def _measure(self, values: dict[str, float], meter: _Meter) -> tuple[float, float]:
        """Cost and drop of a whole run with these values, on a copy."""
        torch.manual_seed(self._context.seed)
        context = replace(
            self._context,
            model=copy.deepcopy(self._context.model),
            data=self._data,
            recorder=Recorder(listeners=[meter.watch]),
            checkpoint=None,
            trained=True,
        )
        method = with_values(self._method, values).model_copy(update={"calibration_batches": 1})
        result = method.run(context)
        drop = result.removals[0].accuracy_before - result.validation_accuracy
        return meter.cost(result.details["effort"], result.details["examples read"]), drop

    def _fastest(self) -> float | None:
        """The cost of the best trial so far that keeps the limit."""
        costs = [cost for _, cost, drop in _complete(self._study) if drop <= self._settings.drop]
        return min(costs, default=None)

    def _note(
        self,
        number: int,
        values: dict[str, float],
        began: float,
        outcome: Ending,
        cost: float | None = None,
        drop: float | None = None,
    ) -> None:
        noted = Trial(number, values, outcome, cost, drop, time.perf_counter() - began)
        self.done.append(noted)
        self._context.recorder.write("trial", **noted.__dict__)


class _TooSlow(Exception):  # noqa: N818 - a signal
    """The trial must cost more than the best one."""

    def __init__(self, cost: float) -> None:
        super().__init__(cost)
        self.cost = cost


class _Meter:
    """What a run costs, as a share of what the iterative baseline does; see the head of this file."""

    def __init__(self, method: IceMethod, context: Context, fastest: float | None) -> None:
        self._method = method
        self._examples = len(context.data.train.images)
        self._validation = len(context.data.validation.images)
        self._calibration = method.calibration_batches * context.data.train.batch_size if method.calibrate else 0
        self._fastest = fastest
        self._steps = 0

    def watch(self, record: Record) -> None:
        """Listens to the run, and stops it once it is hopeless."""
        if record["kind"] != "step":
            return
        self._steps = record["number"]
        if self._fastest is None:
            return
        final = self._method.final_epochs
        least_final = min(final, 1) if self._method.patience is not None else final
        paid = 1 / 3 if self._method.freeze > 0 else 1.0
        least = self.cost(record["effort"] + paid * least_final, record["examples_read"], record["of"])
        if least > self._fastest:
            raise _TooSlow(least)

    def cost(self, effort: float, examples_read: int, steps: int | None = None) -> float:
        """Of `effort` whole epochs and `examples_read` by the trigger, so far; `steps` are those of the whole run."""
        passes = 3 * self._examples * effort + examples_read + self._steps * self._calibration
        baseline = (steps or self._steps) * (3 * self._examples * self._method.epochs + self._validation)
        return float(passes / baseline)


def _share(data: Data, share: float, seed: int) -> Data:
    """The same data with a share of the training images, every class in its proportion."""
    if share == 1:
        return data
    images = data.train.images
    index = stratified_split(images.labels.cpu(), share=share, seed=seed)[1]
    if len(index) < data.train.batch_size:
        raise TuningError(
            f"Expected at least one batch of {data.train.batch_size} images to tune on, but a share of {share} of "
            f"{len(images)} is {len(index)}; raise method.tune.share"
        )
    return replace(data, train=data.train.over(images.take(index.to(images.labels.device))))


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
