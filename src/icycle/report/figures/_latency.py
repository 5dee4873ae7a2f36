"""Latency: dense against pruned, and what was predicted against what was measured."""

from __future__ import annotations

from icycle.report._runs import RunRecord
from icycle.report.figures._style import KEPT, QUIET, REMOVED, Figure, layout, line

__all__ = ["latency", "prediction"]


def latency(run: RunRecord) -> Figure:
    """Dense against pruned per batch size, as shares of the dense median; the whiskers are quartiles."""
    sizes = list(run.report["dense"]["latency"])

    def bars(name: str, color: str) -> Figure:
        measured = [run.report[name]["latency"][size] for size in sizes]
        whole = [run.report["dense"]["latency"][size]["median"] for size in sizes]
        pairs = list(zip(measured, whole, strict=True))
        return {
            "type": "bar",
            "name": name,
            "x": [f"batch {size}" for size in sizes],
            "y": [one["median"] / dense for one, dense in pairs],
            "error_y": {
                "type": "data",
                "array": [(one["upper"] - one["median"]) / dense for one, dense in pairs],
                "arrayminus": [(one["median"] - one["lower"]) / dense for one, dense in pairs],
                "symmetric": False,
                "color": QUIET,
            },
            "text": [f"{one['median']:.3g} ms" for one in measured],
            "textposition": "inside",
            "insidetextanchor": "start",
            "textangle": 0,
            "hovertext": [f"{one['median']:.3g} ms ({one['lower']:.3g}-{one['upper']:.3g})" for one in measured],
            "hovertemplate": f"{name}, %{{x}}: %{{hovertext}}<extra></extra>",
            "marker": {"color": color},
        }

    drawn = {**layout("", "of the dense median"), "barmode": "group", "bargap": 0.45}
    drawn["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    return {"data": [bars("dense", QUIET), bars("pruned", KEPT)], "layout": drawn}


def prediction(run: RunRecord) -> Figure | None:
    """Each sub-network that the search measured: predicted and measured milliseconds, and what was allowed."""
    attempts = run.attempts
    if not attempts:
        return None
    numbers = [f"attempt {number}" for number in range(1, len(attempts) + 1)]

    def dots(name: str, color: str, symbol: str) -> Figure:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": numbers,
            "y": [attempt[name] for attempt in attempts],
            "marker": {"size": 12, "color": color, "symbol": symbol, "line": {"width": 2, "color": color}},
            "hovertemplate": f"{name} %{{y:.4g}} ms<extra></extra>",
        }

    drawn = layout("", "milliseconds")
    drawn["yaxis"] |= {"rangemode": "tozero"}
    drawn["shapes"] = [line("y", attempts[-1]["allowed"], REMOVED, "dash")]
    drawn["annotations"] = [
        {
            "x": 1,
            "xref": "paper",
            "xanchor": "right",
            "y": attempts[-1]["allowed"],
            "yanchor": "bottom",
            "showarrow": False,
            "text": "allowed",
            "font": {"color": REMOVED},
        }
    ]
    return {"data": [dots("predicted", QUIET, "circle-open"), dots("measured", KEPT, "circle")], "layout": drawn}
