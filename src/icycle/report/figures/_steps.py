"""The timeline of a method that prunes step by step: what was decided, on what evidence, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icycle.report._runs import RunRecord
from icycle.report.figures._style import KEPT, QUIET, REMOVED, Figure, below, bounds, layout, line, stage_color

__all__ = ["evidence", "steps"]


def steps(run: RunRecord) -> Figure | None:
    """The metric right after each removal, coloured by the decision; below it the seconds of each step by stage."""
    records = run.of_kind("step")
    if not records:
        return None
    stages = list(dict.fromkeys(stage for record in records for stage in record.get("seconds", {})))
    drawn = layout("step", f"validation {run.metric}", 480 if stages else 340)
    data = [*_decisions(run, records), _end(run)]
    drawn["xaxis"] |= {"type": "category"}
    levels = _levels(run)
    seen = [value for trace in data for value in trace["y"] if value is not None]
    drawn["yaxis"]["range"] = bounds([*seen, *levels.values()])
    drawn["shapes"] = [line("y", value, QUIET, "dot" if name == "dense" else "dash") for name, value in levels.items()]
    drawn["annotations"] = [
        _level(name, value, "bottom" if name == "dense" else "top") for name, value in levels.items()
    ]
    if stages:
        below(drawn, "seconds", 0.5)
        drawn["barmode"] = "stack"
        data += [_seconds(stage, records) for stage in stages]
    return {"data": data, "layout": drawn}


def _decisions(run: RunRecord, records: list[Mapping[str, Any]]) -> list[Figure]:
    """Two traces, so that the legend explains the colours."""
    looks = (("no fine-tune", False, KEPT, "circle"), ("fine-tune", True, REMOVED, "diamond"))
    traces = []
    for name, tuned, color, symbol in looks:
        own = [record for record in records if (record["fine_tuned"] > 0) is tuned]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [str(record["number"]) for record in own],
                "y": [record["decision"]["accuracy"] for record in own],
                "text": [_told(run, record) for record in own],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"size": 11, "color": color, "symbol": symbol},
            }
        )
    order = [str(record["number"]) for record in records]
    joined = {
        "type": "scatter",
        "mode": "lines",
        "x": order,
        "y": [record["decision"]["accuracy"] for record in records],
        "line": {"color": QUIET, "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [joined, *traces]


def _end(run: RunRecord) -> Figure:
    value = run.report["validation_accuracy"]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "at the end",
        "x": ["end"],
        "y": [value],
        "hovertemplate": f"at the end: {run.metric_text(value)}<extra></extra>",
        "marker": {"size": 13, "color": KEPT, "symbol": "star"},
    }


def _levels(run: RunRecord) -> dict[str, float]:
    """The dense network's metric and, where points are those of the metric, what may be lost of it."""
    dense = run.dense_metric
    if dense is None:
        return {}
    threshold = run.method.get("threshold")
    decides = any(record["decision"]["accuracy"] is not None for record in run.of_kind("step"))
    if threshold is None or not decides or not run.higher_is_better:
        return {"dense": dense}
    return {"dense": dense, "threshold": dense - threshold}


def _level(name: str, value: float, anchor: str) -> Figure:
    return {
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": value,
        "yanchor": anchor,
        "showarrow": False,
        "text": name,
        "font": {"color": QUIET},
    }


def _seconds(stage: str, records: list[Mapping[str, Any]]) -> Figure:
    return {
        "type": "bar",
        "name": stage,
        "x": [str(record["number"]) for record in records],
        "y": [record.get("seconds", {}).get(stage, 0.0) for record in records],
        "yaxis": "y2",
        "marker": {"color": stage_color(stage)},
        "hovertemplate": f"step %{{x}}: {stage} %{{y:.2f}} s<extra></extra>",
    }


def evidence(run: RunRecord, record: Mapping[str, Any]) -> str:
    """What a decision was made on, in words."""
    decision = record["decision"]
    if decision["accuracy"] is None:
        return "nothing was read"
    words = f"{run.metric_text(decision['accuracy'])}, {decision['drop']:+.2f} points lost"
    read = f", {decision['share']:.0%} of the split read"
    sure = "" if decision.get("confident", True) else ", not sure at its end"
    ahead = decision.get("ahead")
    return words + read + sure + ("" if ahead is None else f"; the rest at once would have cost {ahead:.2f}")


def _told(run: RunRecord, record: Mapping[str, Any]) -> str:
    kept = "".join(f"<br>{name}: {count} kept" for name, count in list(record["kept"].items())[:6])
    done = f"fine-tuned for {record['fine_tuned']:g} epochs" if record["fine_tuned"] else "no fine-tune"
    left = f"{record['macs_kept']:.1%} of the MACs left"
    spent = sum(record.get("seconds", {}).values())
    return f"<b>step {record['number']}</b>, {left}{kept}<br>{evidence(run, record)}<br>{done}, {spent:.1f} s in all"
