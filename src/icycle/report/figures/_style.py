"""What all figures have in common: plotly's plain JSON, {"data": traces, "layout": layout}, and colours.

Colours of text and grid are left to the page, which knows whether it is light or dark; those here are read on both.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ACCENT",
    "CATEGORIES",
    "KEPT",
    "QUIET",
    "REMOVED",
    "Figure",
    "below",
    "bounds",
    "layout",
    "line",
    "stage_color",
]

Figure = dict[str, Any]

KEPT, REMOVED, ACCENT, QUIET = "#3b82d6", "#e08a3c", "#1f9d77", "#8a8f98"
CATEGORIES = (KEPT, REMOVED, ACCENT, "#a05bc4", "#c94f6d", "#5b8a8f", "#b39a2c", QUIET)
_STAGES = ("train", "fine-tuning", "evaluation", "search", "recalibration", "compensation", "probing", "rest")


def stage_color(stage: str) -> str:
    """A stage of the clock has the same colour in every figure; what methods add shares one."""
    return CATEGORIES[_STAGES.index(stage)] if stage in _STAGES else "#6a5acd"


def layout(x: str, y: str, height: int = 340) -> Figure:
    """Axes with these titles, and the legend above them."""
    return {
        "xaxis": {"title": {"text": x}, "automargin": True, "autotickangles": [0, 60, 90]},
        "yaxis": {"title": {"text": y}, "automargin": True},
        "legend": {"orientation": "h", "x": 0, "y": 1.03, "yanchor": "bottom", "traceorder": "normal"},
        "margin": {"l": 52, "r": 16, "t": 56, "b": 48},
        "height": height,
        "dragmode": False,  # a finger that moves over a figure scrolls the page
    }


def below(figure: Figure, y: str, upper: float) -> None:
    """Make room for a second panel under the first one, which keeps the part of the height above `upper` (0..1)."""
    figure["yaxis"]["domain"] = [upper, 1]
    figure["yaxis2"] = {"title": {"text": y}, "domain": [0, upper - 0.1], "automargin": True, "anchor": "x"}
    figure["xaxis"]["anchor"] = "y2"


def line(orientation: str, at: float, color: str, dash: str = "dot", axis: str = "") -> Figure:
    """A vertical ("x") line through all panels, or a horizontal ("y") one through the panel of `axis` ("y2")."""
    if orientation == "x":
        ends = {"x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper"}
    else:
        ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": at, "y1": at, "yref": axis or "y"}
    return {"type": "line", "line": {"color": color, "width": 1.5, "dash": dash}, **ends}


def bounds(values: list[float], margin: float = 0.08) -> list[float]:
    """A range of an axis that holds all values, with room on both sides."""
    low, high = min(values), max(values)
    room = margin * (high - low or abs(high) or 1)
    return [low - room, high + room]
