"""Several runs: the metric over each price, with the spread of runs that differ in nothing but the seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from icycle.report._runs import RunRecord
from icycle.report._series import Series, seconds_comparable
from icycle.report.figures._style import CATEGORIES, QUIET, Figure, layout

__all__ = ["PRICES", "front", "pareto"]

# price -> (title of the axis, what a run paid)
PRICES: dict[str, tuple[str, Callable[[RunRecord], float]]] = {
    "seconds": ("seconds spent", lambda run: run.seconds_in_all),
    "macs": ("share of the MACs left", lambda run: run.kept("macs")),
    "latency": ("latency at batch 1, ms", lambda run: run.latency("1")),
}


def pareto(series: Sequence[Series], price: str) -> Figure:
    """The test metric over a price: a small dot for each run, a large one with whiskers for each series' mean, and a
    line through the means that no other one beats in both, where these can be held against each other."""
    title, paid = PRICES[price]
    runs = [run for one in series for run in one.runs]
    metrics = list(dict.fromkeys(run.metric for run in runs))
    comparable = len(metrics) == 1 and (price != "seconds" or seconds_comparable(series))
    data = [_front(series, paid)] if comparable else []
    for number, one in enumerate(series):
        data += _dots(one, paid, CATEGORIES[number % len(CATEGORIES)])
    return {"data": data, "layout": layout(title, f"test {metrics[0] if len(metrics) == 1 else 'metric'}", 360)}


def _dots(one: Series, paid: Callable[[RunRecord], float], color: str) -> list[Figure]:
    cost, metric = one.spread(paid), one.spread(lambda run: run.test_metric)
    mean = {
        "type": "scatter",
        "mode": "markers",
        "name": one.name,
        "legendgroup": one.name,
        "x": [cost.mean],
        "y": [metric.mean],
        "text": [f"<b>{one.name}</b>, {one.count}<br>{metric.text('.4g')} at {cost.text('.4g')}"],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": 12, "color": color},
    }
    if len(one.runs) < 2:
        return [mean]
    for axis, spread in (("error_x", cost), ("error_y", metric)):
        mean[axis] = {"type": "data", "array": [spread.deviation], "color": color, "thickness": 1.5}
    single = {
        "type": "scatter",
        "mode": "markers",
        "legendgroup": one.name,
        "showlegend": False,
        "x": [paid(run) for run in one.runs],
        "y": [run.test_metric for run in one.runs],
        "text": [run.name for run in one.runs],
        "hovertemplate": "%{text}<br>%{y:.4g} at %{x:.4g}<extra></extra>",
        "marker": {"size": 5, "color": color, "opacity": 0.55},
    }
    return [single, mean]


def front(points: Sequence[tuple[float, float]], higher_is_better: bool = True) -> list[tuple[float, float]]:
    """Those of the (cost, value) points that no other is both cheaper and at least as good as, by cost."""
    sign = 1 if higher_is_better else -1
    best: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not best or sign * value > sign * best[-1][1]:
            best.append((cost, value))
    return best


def _front(series: Sequence[Series], paid: Callable[[RunRecord], float]) -> Figure:
    higher = series[0].runs[0].higher_is_better
    points = [(one.spread(paid).mean, one.spread(lambda run: run.test_metric).mean) for one in series]
    best = front(points, higher)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "not beaten in both",
        "x": [cost for cost, _ in best],
        "y": [metric for _, metric in best],
        "line": {"color": QUIET, "width": 1.5, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }
