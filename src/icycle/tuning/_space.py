"""What is tuned: the threshold, the share of frozen layers, and the parameters of the learning rate's curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icycle.methods import CurveSettings, IceMethod

if TYPE_CHECKING:
    import optuna

__all__ = ["PAPERS_GRID", "own_values", "suggest", "with_values"]

# Source: ICE-Pruning, arXiv 2505.07411, its settings for CIFAR-10; delta is written as a share of base.
PAPERS_GRID: dict[str, list[float]] = {
    "threshold": [0.5, 1.0, 1.5],
    "freeze": [0.2, 0.5, 0.9],
    "base": [0.001, 0.003, 0.005],
    "delta_share": [0.15, 0.25],
    "p": [0.1, 0.2],
    "beta": [40.0, 60.0],
}

_LOWEST = {"threshold": 2.0, "freeze": 0.0, "base": 0.003, "delta_share": 0.0, "p": 0.1, "beta": 10.0}
_HIGHEST = {"threshold": 60.0, "freeze": 0.6, "base": 0.1, "delta_share": 0.8, "p": 0.7, "beta": 60.0}
_BY_FACTORS = frozenset({"threshold", "base", "beta"})


def suggest(trial: optuna.Trial, grid: bool) -> dict[str, float]:
    """The values of one trial: points of the paper's grid, or anything within the ranges."""
    if grid:
        return {name: float(trial.suggest_categorical(name, values)) for name, values in PAPERS_GRID.items()}
    return {
        name: trial.suggest_float(name, lowest, _HIGHEST[name], log=name in _BY_FACTORS)
        for name, lowest in _LOWEST.items()
    }


def own_values(method: IceMethod) -> dict[str, float]:
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
    return {name: min(max(value, _LOWEST[name]), _HIGHEST[name]) for name, value in values.items()}


def with_values(method: IceMethod, values: dict[str, Any]) -> IceMethod:
    """The method with a trial's values, rounded to four digits, and nothing left to tune."""
    short = {name: float(f"{value:.4g}") for name, value in values.items()}
    delta = float(f"{short['base'] * short['delta_share']:.4g}")
    curve = CurveSettings(base=short["base"], delta=delta, p=short["p"], beta=short["beta"])
    changes = {"threshold": short["threshold"], "freeze": short["freeze"], "curve": curve, "tune": None}
    return method.model_copy(update=changes)
