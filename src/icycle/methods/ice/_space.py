"""What is tuned in ICE: the threshold, the share of frozen layers, the learning rate's curve, and the final epochs.

Cost is counted in passes, not read off a clock, so that a rerun decides alike and a busy machine misleads nobody: a
training example costs three (one forward, two backward; less what frozen layers save), one that is only looked at costs
one. What a step is refitted and recalibrated on counts for each of them, although steps that go at once share it. An
epoch of training costs 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from icycle.methods._registry import Context, Effort
from icycle.methods._tunable import Values
from icycle.methods.ice._curve import Curve
from icycle.methods.ice._trigger import size_needed

if TYPE_CHECKING:
    import optuna

    from icycle.methods.ice._methods import IceMethod

__all__ = ["PAPERS_GRID", "IceSpace"]

# Source: ICE-Pruning, arXiv 2505.07411, its settings for CIFAR-10; delta is written as a share of base.
PAPERS_GRID: dict[str, list[float]] = {
    "threshold": [0.5, 1.0, 1.5],
    "freeze": [0.2, 0.5, 0.9],
    "base": [0.001, 0.003, 0.005],
    "delta_share": [0.15, 0.25],
    "p": [0.1, 0.2],
    "beta": [40.0, 60.0],
}

# base: as a share of the rate that the network was trained with
_LOWEST = {"threshold": 2.0, "freeze": 0.0, "base": 0.03, "delta_share": 0.0, "p": 0.1, "beta": 10.0}
_HIGHEST = {"threshold": 60.0, "freeze": 0.6, "base": 1.0, "delta_share": 0.8, "p": 0.7, "beta": 60.0}
_EPOCHS = 1.0  # of a fine-tune between removals, where the method has none
_LEAST_FROZEN = 0.05  # for less nothing is frozen
_BY_FACTORS = frozenset({"threshold", "base", "beta"})


class IceSpace:
    """The search space of `method`; the threshold is one that the validation split can decide on, the rate at most that
    which the network was trained with. What the method says itself lies within the ranges."""

    grid: Mapping[str, Sequence[float]] = PAPERS_GRID

    def __init__(self, method: IceMethod, context: Context) -> None:
        train, rate = context.data.train, context.train.optimizer.learning_rate
        self._method = method
        self._curve = method.curve.after(rate)
        self._examples = train.examples
        passes = method.calibrate + method.compensate
        self._calibration = passes * method.calibration_batches * train.batch_size
        threshold = _lowest_threshold(method.confidence, context.data.validation.examples)
        self._lowest = {**_LOWEST, "threshold": threshold, "base": _LOWEST["base"] * rate}
        self._highest = {**_HIGHEST, "base": _HIGHEST["base"] * rate}
        for name, value in self.own_values().items():
            if name in self._lowest:
                self._lowest[name] = min(self._lowest[name], value)
                self._highest[name] = max(self._highest[name], value)

    @property
    def first(self) -> Sequence[Values]:
        """The method's own settings, and the same with so high a threshold that all recovery is left to the end."""
        own = self.own_values()
        patient = {**own, "threshold": self._highest["threshold"]}
        return (own,) if patient == own else (own, patient)

    def own_values(self) -> Values:
        """The method's settings as a trial's values; no fine-tunes in between are those of the highest threshold, one
        after every step those of the lowest."""
        method, curve = self._method, self._curve
        values = {
            "threshold": (method.threshold or self._lowest["threshold"]) if method.epochs else _HIGHEST["threshold"],
            "freeze": method.freeze,
            "base": curve.highest,
            "delta_share": curve.delta / curve.highest,
            "p": curve.p,
            "beta": curve.beta,
        }
        return {**values, "final_epochs": method.final_epochs} if method.final_epochs > 1 else values

    def suggest(self, trial: optuna.Trial) -> Values:
        """Anything within the ranges; of the method's `final_epochs` fewer may do, but at least one."""
        values: dict[str, float] = {
            name: trial.suggest_float(name, lowest, self._highest[name], log=name in _BY_FACTORS)
            for name, lowest in self._lowest.items()
        }
        if self._method.final_epochs > 1:
            values["final_epochs"] = trial.suggest_int("final_epochs", 1, self._method.final_epochs)
        return values

    def method(self, values: Values) -> IceMethod:
        """The method with a trial's values, rounded to four digits, and nothing left to tune."""
        short = {name: float(f"{value:.4g}") for name, value in values.items()}
        if short["freeze"] < _LEAST_FROZEN:
            short["freeze"] = 0.0
        delta = float(f"{short['base'] * short['delta_share']:.4g}")
        curve = Curve(base=short["base"], delta=delta, p=short["p"], beta=short["beta"])
        changes = {"threshold": short["threshold"], "freeze": short["freeze"], "curve": curve, "tune": None}
        changes["epochs"] = self._method.epochs or _EPOCHS
        if "final_epochs" in values:
            changes["final_epochs"] = int(values["final_epochs"])
        return self._method.model_copy(update=changes)

    def trial(self, values: Values) -> IceMethod:
        """Recalibrates on one batch, where that is all that such batches are for; `cost` counts what a run needs."""
        method = self.method(values)
        return method if method.compensate else method.model_copy(update={"calibration_batches": 1})

    def cost(self, effort: Effort) -> float:
        looked_at = effort.examples_read + effort.steps * self._calibration
        return effort.epochs + looked_at / (3 * self._examples)

    def least_cost(self, values: Values, record: Mapping[str, Any]) -> float | None:
        """What remains costs at least the final fine-tune, or, where layers may be frozen, its forward passes."""
        if record["kind"] != "step":
            return None
        final, method = self.method(values).final_epochs, self._method
        if method.patience is not None:
            final = min(final, 1)
        if method.drop is not None:
            final = 0
        share = 1 / 3 if self.method(values).freeze > 0 else 1.0
        done = Effort(**record["effort"])
        return self.cost(Effort(done.epochs + share * final, done.examples_read, done.steps))


def _lowest_threshold(confidence: float | None, examples: int) -> float:
    """The lowest threshold of the range (percentage points) that a split of so many examples can decide on."""
    threshold, highest = _LOWEST["threshold"], _HIGHEST["threshold"]
    while confidence is not None and threshold < highest and size_needed(threshold, confidence) > examples:
        threshold = min(math.ceil(11 * threshold) / 10, highest)
    return threshold
