"""The course of a run: its metric over the epochs, and what decided when channels went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from icycle.report._runs import RunRecord
from icycle.report.figures._style import ACCENT, KEPT, QUIET, REMOVED, Figure, below, layout, line, stage_color

__all__ = ["course", "time_spent"]


def course(run: RunRecord) -> Figure | None:
    """The validation metric over the epochs and, where the method has one, its indicator below; removals, the deadline
    and the limits of the indicator are marked."""
    epochs = run.of_kind("epoch")
    if not epochs:
        return None
    searches = [record for record in run.of_kind("search") if record.get("indicator") is not None]
    drawn = layout("epoch", f"validation {run.metric}", 460 if searches else 340)
    data = [_over_epochs(f"validation {run.metric}", epochs, "validation_accuracy", KEPT), *_around_removals(run)]
    lines = [line("x", removal["epoch"], REMOVED) for removal in run.within_training]
    labels = _removals(run)
    if searches:
        below(drawn, "indicator", 0.52)
        data.append({**_over_epochs("indicator", searches, "indicator", ACCENT), "yaxis": "y2"})
        lines += _limits(run)
        if run.deadline is not None and run.reason != "deadline" and run.deadline <= run.epochs:
            lines.append(line("x", run.deadline, QUIET, "dash"))
            labels.append(_label(run, run.deadline, "deadline", QUIET) | {"yshift": -16})  # it may be near the removal
    if len(data) == 1:  # without a legend
        drawn["margin"] |= {"t": 16}
    drawn["xaxis"] |= {"range": [0, 1.02 * run.epochs]}  # what is written at a mark counts for a range, too
    drawn |= {"shapes": lines, "annotations": labels}
    return {"data": data, "layout": drawn}


def _over_epochs(name: str, records: Iterable[Mapping[str, Any]], key: str, color: str) -> Figure:
    points = [(record["epoch"], record[key]) for record in records]
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(points) < 60 else "lines",
        "name": name,
        "x": [point[0] for point in points],
        "y": [point[1] for point in points],
        "hovertemplate": f"{name} %{{y:.4g}}<br>after %{{x:.2f}} epochs<extra></extra>",
        "line": {"color": color, "width": 2},
        "marker": {"size": 5},
    }


def _around_removals(run: RunRecord) -> list[Figure]:
    """The metric right before and right after each removal: what the removal itself cost."""
    removals = run.within_training
    if not removals:
        return []
    ends = [
        (removal["epoch"], removal[f"accuracy_{side}"], side) for removal in removals for side in ("before", "after")
    ]
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "before and after the removal",
            "x": [epoch for epoch, _, _ in ends],
            "y": [value for _, value, _ in ends],
            "text": [f"{side} the removal: {run.metric_text(value)}" for _, value, side in ends],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {
                "size": 9,
                "color": REMOVED,
                "symbol": ["circle-open" if side == "before" else "circle" for _, _, side in ends],
            },
        }
    ]


def _removals(run: RunRecord) -> list[Figure]:
    """One label for all, which would hide each other: before the first or after the last, where there is more room."""
    moments = [removal["epoch"] for removal in run.within_training]
    if not moments:
        return []
    word = f"{len(moments)} removals" if len(moments) > 1 else "removal"
    told = f"{word}, at the deadline" if run.reason == "deadline" else word
    before = moments[0] > run.epochs - moments[-1]
    place = {"x": moments[0 if before else -1], "xanchor": "right" if before else "left"}
    return [_label(run, moments[0], told, REMOVED) | place]


def _limits(run: RunRecord) -> list[Figure]:
    """The values of the indicator at which the search has settled."""
    return [
        line("y", run.phases[name], QUIET, "dot", axis="y2") for name in ("threshold", "plateau") if name in run.phases
    ]


def _label(run: RunRecord, epoch: float, text: str, color: str) -> Figure:
    """Beside the top of a vertical line, on the side where there is room."""
    return {
        "x": epoch,
        "y": 1,
        "yref": "paper",
        "yanchor": "top",
        "xanchor": "left" if epoch < run.epochs / 2 else "right",
        "showarrow": False,
        "text": text,
        "font": {"color": color},
    }


def time_spent(run: RunRecord) -> Figure:
    """Where the seconds went: a bar for each stage, the longest first."""
    stages: Sequence[tuple[str, float]] = sorted(run.report["seconds"].items(), key=lambda stage: stage[1])
    shown = [(stage, spent) for stage, spent in stages if spent > 0]
    total = sum(spent for _, spent in shown) or 1.0
    drawn = layout("seconds", "", 120 + 30 * len(shown))
    drawn["margin"] = {"l": 90, "r": 44, "t": 12, "b": 44}
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [spent for _, spent in shown],
        "y": [stage for stage, _ in shown],
        "text": [f"{spent / total:.0%}" for _, spent in shown],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [stage_color(stage) for stage, _ in shown]},
        "hovertemplate": "%{y}: %{x:.1f} s<extra></extra>",
    }
    return {"data": [trace], "layout": drawn}
