"""The figures of a page, as plotly's plain JSON: {"data": traces, "layout": layout}.

Colours of text and grid are left to the page, which knows whether it is light or dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from icycle.report._runs import RunRecord

__all__ = ["channels", "course", "latency", "pareto", "steps", "time_spent"]

Figure = dict[str, Any]

_KEPT, _REMOVED, _ACCENT, _QUIET = "#3b76d6", "#d9822b", "#1f9d77", "#8a8f98"
_CATEGORIES = (_KEPT, _REMOVED, _ACCENT, "#a05bc4", "#c94f6d", _QUIET)

_ON_THE_RIGHT = {"overlaying": "y", "side": "right", "showgrid": False, "automargin": True}


def course(run: RunRecord) -> Figure | None:
    """Validation metric and, where the method has one, its indicator over the epochs; removals are marked."""
    epochs = run.of_kind("epoch")
    if not epochs:
        return None
    traces = [_line(f"validation {run.metric}", epochs, "epoch", "validation_accuracy", _KEPT)]
    searches = [record for record in run.of_kind("search") if record.get("indicator") is not None]
    layout = _layout("epoch", f"validation {run.metric}")
    if searches:
        traces.append({**_line("indicator", searches, "epoch", "indicator", _ACCENT), "yaxis": "y2"})
        layout["yaxis2"] = {"title": {"text": "indicator"}, "tickformat": ".2f"} | _ON_THE_RIGHT
    layout["xaxis"] |= {"range": [0, 1.02 * epochs[-1]["epoch"]]}  # what is written at a mark counts for a range, too
    layout["shapes"] = [_mark(removal["epoch"]) for removal in run.report["removals"]]
    layout["annotations"] = [
        {
            "x": removal["epoch"],
            "y": 1.02,
            "yref": "paper",
            "yanchor": "bottom",
            "showarrow": False,
            "text": _removal_text(run, removal),
        }
        for removal in run.report["removals"][:3]  # more would hide each other
    ]
    return {"data": traces, "layout": layout}


def _removal_text(run: RunRecord, removal: Mapping[str, Any]) -> str:
    reason = run.report["details"].get("why the removal came")
    kept = removal["macs_after"] / max(removal["macs_before"], 1)
    return f"{kept:.0%} of the MACs left" + (f" ({reason})" if reason else "")


def _line(name: str, records: Iterable[Mapping[str, Any]], x: str, y: str, color: str) -> Figure:
    points = [(record[x], record[y]) for record in records]
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(points) < 60 else "lines",
        "name": name,
        "x": [point[0] for point in points],
        "y": [point[1] for point in points],
        "line": {"color": color, "width": 2},
    }


def _mark(epoch: float) -> Figure:
    return {
        "type": "line",
        "x0": epoch,
        "x1": epoch,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": _REMOVED, "width": 2, "dash": "dot"},
    }


def steps(run: RunRecord) -> Figure | None:
    """What every step of a method that prunes step by step decided, and on what evidence."""
    records = run.of_kind("step")
    if not records:
        return None
    tuned = [record["fine_tuned"] > 0 for record in records]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"validation {run.metric}",
        "x": [record["number"] for record in records],
        "y": [record["decision"]["accuracy"] for record in records],
        "text": [_step_text(run, record) for record in records],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": _QUIET, "width": 1},
        "marker": {
            "size": 10,
            "color": [_REMOVED if fired else _KEPT for fired in tuned],
            "symbol": ["diamond" if fired else "circle" for fired in tuned],
        },
    }
    left = {
        "type": "scatter",
        "mode": "lines",
        "name": "share of the MACs left",
        "x": [record["number"] for record in records],
        "y": [record["macs_kept"] for record in records],
        "yaxis": "y2",
        "line": {"color": _ACCENT, "dash": "dot"},
    }
    layout = _layout("step (diamond: fine-tuned)", f"validation {run.metric}")
    layout["yaxis2"] = {"tickformat": ".0%", "range": [0, 1.02]} | _ON_THE_RIGHT
    return {"data": [trace, left], "layout": layout}


def _step_text(run: RunRecord, record: Mapping[str, Any]) -> str:
    decision = record["decision"]
    kept = "<br>".join(f"{name}: {count} kept" for name, count in list(record["kept"].items())[:6])
    if decision["accuracy"] is None:
        evidence = "nothing was read"
    else:
        evidence = (
            f"{run.metric_text(decision['accuracy'])}, {decision['drop']:+.2f} lost, "
            f"read from {decision['share']:.0%} of the split"
        )
    done = f"fine-tuned for {record['fine_tuned']:g} epochs" if record["fine_tuned"] else "no fine-tune"
    return f"<b>step {record['number']}</b><br>{kept}<br>{evidence}<br>{done}"


def channels(run: RunRecord) -> Figure | None:
    """Kept and removed channels of every group, along the network."""
    groups = run.report.get("groups", [])
    if not groups:
        return None
    places = list(range(1, len(groups) + 1))
    hover = [f"<b>{group['name']}</b><br>{group['kept']} of {group['size']} kept{_members(group)}" for group in groups]

    def bars(name: str, values: Sequence[int], color: str) -> Figure:
        return {
            "type": "bar",
            "name": name,
            "x": places,
            "y": values,
            "marker": {"color": color},
            "hovertext": hover,
            "hovertemplate": "%{hovertext}<extra></extra>",
        }

    data = [
        bars("kept", [group["kept"] for group in groups], _KEPT),
        bars("removed", [group["size"] - group["kept"] for group in groups], _REMOVED),
    ]
    return {"data": data, "layout": {**_layout("group, front to back", "channels"), "barmode": "stack", "bargap": 0.15}}


def _members(group: Mapping[str, Any]) -> str:
    shown = group["members"][:6]
    more = len(group["members"]) - len(shown)
    return "".join(f"<br>{name}" for name in shown) + (f"<br>and {more} more" if more else "")


def time_spent(run: RunRecord) -> Figure:
    """Where the seconds went, as one bar."""
    seconds = run.report["seconds"]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": stage,
            "x": [value],
            "y": [""],
            "marker": {"color": _CATEGORIES[number % len(_CATEGORIES)]},
            "hovertemplate": f"{stage}: %{{x:.1f}} s<extra></extra>",
        }
        for number, (stage, value) in enumerate(seconds.items())
    ]
    return {"data": data, "layout": {**_layout("seconds", ""), "barmode": "stack", "height": 260}}


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
                "color": _QUIET,
            },
            "text": [f"{one['median']:.3g} ms" for one in measured],
            "textposition": "inside",
            "insidetextanchor": "start",
            "marker": {"color": color},
        }

    layout = {**_layout("", "of the dense median"), "barmode": "group"}
    layout["yaxis"] |= {"tickformat": ".0%"}
    return {"data": [bars("dense", _QUIET), bars("pruned", _KEPT)], "layout": layout}


def pareto(runs: Sequence[RunRecord]) -> Figure:
    """The test metric over time spent, over MACs and over latency: a point for each run, a colour for each method."""
    axes = {
        "seconds": ("seconds spent", lambda run: run.total_seconds),
        "macs": ("share of the MACs left", lambda run: run.kept("macs")),
        "latency": ("latency, batch 1 (ms)", lambda run: run.report["pruned"]["latency"]["1"]["median"]),
    }
    methods = list(dict.fromkeys(run.report["method"] for run in runs))
    data = []
    for column, (_, value) in enumerate(axes.values(), 1):
        suffix = "" if column == 1 else str(column)
        for number, method in enumerate(methods):
            own = [run for run in runs if run.report["method"] == method]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": method,
                    "legendgroup": method,
                    "showlegend": column == 1,
                    "x": [value(run) for run in own],
                    "y": [run.report["test_accuracy"] for run in own],
                    "text": [run.name for run in own],
                    "hovertemplate": "%{text}<br>%{y:.4g}<extra></extra>",
                    "marker": {"size": 11, "color": _CATEGORIES[number % len(_CATEGORIES)]},
                    "xaxis": f"x{suffix}",
                    "yaxis": f"y{suffix}",
                }
            )
    layout = {**_layout("", ""), "grid": {"rows": 1, "columns": 3, "pattern": "independent"}, "height": 380}
    for column, (title, _) in enumerate(axes.values(), 1):
        suffix = "" if column == 1 else str(column)
        layout[f"xaxis{suffix}"] = {"title": {"text": title}, "automargin": True}
        layout[f"yaxis{suffix}"] = {
            "title": {"text": f"test {runs[0].metric}" if column == 1 else ""},
            "automargin": True,
        }
    return {"data": data, "layout": layout}


def _layout(x: str, y: str) -> Figure:
    return {
        "xaxis": {"title": {"text": x}, "automargin": True},
        "yaxis": {"title": {"text": y}, "automargin": True},
        "legend": {"orientation": "h", "x": 0, "y": 1.14, "yanchor": "bottom"},
        "margin": {"l": 48, "r": 24, "t": 48, "b": 44},
        "height": 340,
    }
