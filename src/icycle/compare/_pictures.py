"""The test metric over what it costs: one picture for seconds, epochs and latency each, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icycle.compare._table import Row
from icycle.errors import RecipeError
from icycle.report import front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "require_matplotlib"]

_COSTS = {"seconds": "seconds of the whole run", "epochs": "epochs", "latency": "latency at batch 64 / dense"}


def draw(table: Sequence[Row], folder: Path) -> list[Path]:
    """Write `pareto-seconds.svg`, `pareto-epochs.svg` and `pareto-latency.svg` into `folder`.

    Raises:
        RecipeError: matplotlib is missing.
    """
    new_figure = require_matplotlib()
    made = []
    for cost, words in _COSTS.items():
        figure = new_figure(figsize=(7, 4.5), layout="constrained")
        _scatter(figure.subplots(), table, cost, words)
        made.append(folder / f"pareto-{cost}.svg")
        figure.savefig(made[-1])
    return made


def require_matplotlib() -> type[Figure]:
    """Its figures.

    Raises:
        RecipeError: it is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RecipeError(
            "Expected matplotlib, which pictures need; pip install 'icycle[plot]', or use --no-pictures"
        ) from error
    return Figure


def _scatter(axes: Axes, table: Sequence[Row], cost: str, words: str) -> None:
    costs = [getattr(row, cost) for row in table]  # a latency that does not clearly differ: the dense network's
    points: list[tuple[float, float]] = [
        (1.0 if own is None else own, row.accuracy) for own, row in zip(costs, table, strict=True)
    ]
    for row, (x, y) in zip(table, points, strict=True):
        spread: Any = row.deviation
        axes.errorbar(x, y, yerr=spread, fmt="o", capsize=3)
        axes.annotate(row.label, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)
    xs, ys = zip(*front(points, table[0].higher_is_better), strict=True)
    axes.plot(xs, ys, color="grey", linewidth=1, zorder=0)
    axes.set_xlabel(words)
    axes.set_ylabel(f"test {_named(table[0])} (mean ± standard deviation)")
    axes.grid(alpha=0.3)


def _named(row: Row) -> str:
    if row.metric == "accuracy":
        return "accuracy, percent"
    return row.metric + ("" if row.higher_is_better else ", lower is better")
