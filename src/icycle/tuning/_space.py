"""What is tuned: the threshold, the share of frozen layers, the learning rate's curve, and the final epochs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from icycle.methods import CurveSettings, IceMethod, size_needed

if TYPE_CHECKING:
    import optuna

__all__ = ["HIGHEST_THRESHOLD", "PAPERS_GRID", "lowest_threshold", "own_values", "suggest", "with_values"]

# Source: ICE-Pruning, arXiv 2505.07411, its settings for CIFAR-10; delta is written as a share of base.
PAPERS_GRID: dict[str, list[float]] = {
    "threshold": [0.5, 1.0, 1.5],
    "freeze": [0.2, 0.5, 0.9],
    "base": [0.001, 0.003, 0.005],
    "delta_share": [0.15, 0.25],
    "p": [0.1, 0.2],
    "beta": [40.0, 60.0],
}

LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 2.0, 60.0  # so high a one leaves all recovery to the end
_LOWEST = {"threshold": LOWEST_THRESHOLD, "freeze": 0.0, "base": 0.003, "delta_share": 0.0, "p": 0.1, "beta": 10.0}
_HIGHEST = {"threshold": HIGHEST_THRESHOLD, "freeze": 0.6, "base": 0.1, "delta_share": 0.8, "p": 0.7, "beta": 60.0}
_LEAST_FROZEN = 0.05  # a probe for less is not worth its time: nothing is frozen, and there is none
_BY_FACTORS = frozenset({"threshold", "base", "beta"})


def suggest(
    trial: optuna.Trial, grid: bool, threshold: float = LOWEST_THRESHOLD, final_epochs: int = 0
) -> dict[str, float]:
    """The values of one trial: points of the paper's grid, or anything within the ranges.

    The threshold is at least `threshold`; of the method's `final_epochs` fewer may do, but at least one.
    """
    if grid:
        return {name: float(trial.suggest_categorical(name, values)) for name, values in PAPERS_GRID.items()}
    lowest = {**_LOWEST, "threshold": threshold}
    values: dict[str, float] = {
        name: trial.suggest_float(name, lowest[name], _HIGHEST[name], log=name in _BY_FACTORS) for name in lowest
    }
    if final_epochs > 1:
        values["final_epochs"] = trial.suggest_int("final_epochs", 1, final_epochs)
    return values


def lowest_threshold(confidence: float | None, examples: int) -> float:
    """The lowest threshold of the range (percentage points) that a split of so many examples can decide on."""
    threshold, highest = LOWEST_THRESHOLD, _HIGHEST["threshold"]
    while confidence is not None and threshold < highest and size_needed(threshold, confidence) > examples:
        threshold = min(math.ceil(11 * threshold) / 10, highest)
    return threshold


def own_values(method: IceMethod, threshold: float = LOWEST_THRESHOLD) -> dict[str, float]:
    """The method's settings as a trial's values, moved into the ranges."""
    curve = method.curve
    values = {
        "threshold": method.threshold,
        "freeze": method.freeze,
        "base": curve.base,
        "delta_share": curve.delta / curve.base,
        "p": curve.p,
        "beta": curve.beta,
    }
    lowest = {**_LOWEST, "threshold": threshold}
    within = {name: min(max(value, lowest[name]), _HIGHEST[name]) for name, value in values.items()}
    return {**within, "final_epochs": method.final_epochs} if method.final_epochs > 1 else within


def with_values(method: IceMethod, values: dict[str, Any]) -> IceMethod:
    """The method with a trial's values, rounded to four digits, and nothing left to tune."""
    short = {name: float(f"{value:.4g}") for name, value in values.items()}
    if short["freeze"] < _LEAST_FROZEN:
        short["freeze"] = 0.0
    delta = float(f"{short['base'] * short['delta_share']:.4g}")
    curve = CurveSettings(base=short["base"], delta=delta, p=short["p"], beta=short["beta"])
    changes = {"threshold": short["threshold"], "freeze": short["freeze"], "curve": curve, "tune": None}
    if "final_epochs" in values:
        changes["final_epochs"] = int(values["final_epochs"])
    return method.model_copy(update=changes)
