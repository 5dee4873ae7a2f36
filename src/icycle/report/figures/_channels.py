"""Channels along the network: how many are left of each group, and by which scores they were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icycle.report._runs import RunRecord
from icycle.report.figures._style import KEPT, QUIET, REMOVED, Figure, bounds, layout, line

__all__ = ["channels", "saliency"]

_NAMED = 12  # groups; the names of more would hide each other
_TALLEST = 4.0  # times the cut; higher scores leave the picture, or the cut would lie at its bottom


def channels(run: RunRecord) -> Figure | None:
    """Kept and removed channels of every group, front to back."""
    groups = run.report.get("groups", [])
    if not groups:
        return None
    hover = [f"<b>{group['name']}</b><br>{group['kept']} of {group['size']} kept{_members(group)}" for group in groups]

    def bars(name: str, values: Sequence[int], color: str) -> Figure:
        return {
            "type": "bar",
            "name": name,
            "x": list(range(1, len(groups) + 1)),
            "y": values,
            "marker": {"color": color, "opacity": 1.0 if name == "kept" else 0.55},
            "hovertext": hover,
            "hovertemplate": "%{hovertext}<extra></extra>",
        }

    data = [
        bars("kept", [group["kept"] for group in groups], KEPT),
        bars("removed", [group["size"] - group["kept"] for group in groups], REMOVED),
    ]
    drawn = layout("group, front to back", "channels") | {"barmode": "stack", "bargap": 0.15}
    drawn["xaxis"] |= _places([group["name"] for group in groups])
    return {"data": data, "layout": drawn}


def _members(group: Mapping[str, Any]) -> str:
    shown = group["members"][:6]
    more = len(group["members"]) - len(shown)
    return "".join(f"<br>{name}" for name in shown) + (f"<br>and {more} more" if more else "")


def _places(names: Sequence[str]) -> Figure:
    """The groups' places on an axis, with their names where these are few."""
    ends = {"range": [0.4, len(names) + 0.6]}
    if len(names) > _NAMED:
        return ends
    return {"tickmode": "array", "tickvals": list(range(1, len(names) + 1)), "ticktext": list(names), **ends}


def saliency(run: RunRecord) -> Figure | None:
    """The scores of each group's channels in their order, as multiples of the group's cut; a curve for each group."""
    choices = run.choices
    if not choices:
        return None
    places = {name: place for place, name in enumerate(choices, start=1)}
    data = [_curves(side, choices, places) for side in ("removed", "kept")]
    shown = [min(value, _TALLEST) for trace in data for value in trace["y"] if value is not None]
    drawn = layout("group, front to back", "score / cut")
    drawn["xaxis"] |= _places(list(places))
    drawn["yaxis"] |= {"range": bounds([*shown, 1.0])}
    drawn["shapes"] = [line("y", 1.0, QUIET, "dash")]
    return {"data": data, "layout": drawn}


def _curves(side: str, choices: Mapping[str, Mapping[str, Any]], places: Mapping[str, int]) -> Figure:
    """What went fills the left part of a group's place, what stayed the right part, each as wide as its share."""
    x: list[float | None] = []
    y: list[float | None] = []
    names: list[str | None] = []
    for name, group in choices.items():
        cut, scores = group["cut"], group[side]
        gone = 1 - group["left"] / group["size"]
        start, end = (0.0, gone) if side == "removed" else (gone, 1.0)
        for number, score in enumerate(scores):
            share = start + (end - start) * (number + 0.5) / len(scores)
            x.append(places[name] - 0.42 + 0.84 * share)
            y.append(score / cut)
            names.append(f"<b>{name}</b><br>{side}, score {score:.4g}")
        x.append(None)  # ends the curve
        y.append(None)
        names.append(None)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": side,
        "x": x,
        "y": y,
        "text": names,
        "hovertemplate": "%{text}, %{y:.2f} times the cut<extra></extra>",
        "line": {"color": KEPT if side == "kept" else REMOVED, "width": 1.5},
        "marker": {"size": 4},
    }
