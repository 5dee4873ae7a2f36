"""Runs as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import icycle
from icycle.report import _figures as figures
from icycle.report._runs import RunRecord, read_run_record

__all__ = ["write_page"]


@dataclass(frozen=True)
class _Card:
    name: str
    value: str
    beside: str
    tone: str = ""  # "good" or "bad"


@dataclass(frozen=True)
class _Figure:
    id: str
    title: str
    note: str
    content: figures.Figure


@dataclass(frozen=True)
class _Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_page(folders: Sequence[Path], output: Path) -> Path:
    """Write a page that shows the run in the only folder, or compares the runs in several; returns `output`.

    The page loads nothing: plotly's script is part of it.

    Raises:
        RecipeError: a folder holds no finished run.
    """
    runs = [read_run_record(folder) for folder in folders]
    content = _one(runs[0]) if len(runs) == 1 else _several(runs)
    output.write_text(_rendered(**content), encoding="utf-8")
    return output


def _one(run: RunRecord) -> dict[str, Any]:
    report = run.report
    return {
        "title": run.name,
        "lead": f"{report['method']} on the recipe {report['recipe']}, on {report['environment'].get('device', '')}",
        "warnings": list(_warnings(run)),
        "cards": list(_cards(run)),
        "figures": [figure for figure in _figures_of(run) if figure is not None],
        "tables": [_details(run), _Table("Where it was measured", ("", ""), list(report["environment"].items()))],
        "sources": [("Recipe", run.recipe)],
    }


def _warnings(run: RunRecord) -> Iterator[str]:
    for size, dense in run.report["dense"]["latency"].items():
        pruned = run.report["pruned"]["latency"][size]
        if pruned["lower"] > dense["upper"]:
            yield f"At batch {size} the pruned network is slower than the dense one."


def _cards(run: RunRecord) -> Iterator[_Card]:
    report = run.report
    removals = report["removals"]
    validation = f"validation {run.metric_text(report['validation_accuracy'])}"
    yield _Card(f"test {report['metric']}", run.metric_text(report["test_accuracy"]), validation)
    yield _Card("MACs", f"{run.kept('macs'):.1%}", f"{report['pruned']['macs']:,} of {report['dense']['macs']:,}")
    yield _Card("parameters", f"{run.kept('params'):.1%}", f"{report['pruned']['params']:,}")
    for size, dense in report["dense"]["latency"].items():
        yield _latency_card(size, dense, report["pruned"]["latency"][size])
    yield _Card("time spent", _duration(run.total_seconds), f"{len(removals)} removal{'s' * (len(removals) != 1)}")


def _latency_card(size: str, dense: Mapping[str, float], pruned: Mapping[str, float]) -> _Card:
    """No ratio where the quartiles overlap: the machine does not tell the two apart."""
    beside = f"{pruned['median']:.2f} ms, dense {dense['median']:.2f} ms"
    if pruned["upper"] < dense["lower"]:
        return _Card(f"latency, batch {size}", f"{pruned['median'] / dense['median']:.0%}", beside, "good")
    if pruned["lower"] > dense["upper"]:
        return _Card(f"latency, batch {size}", f"{pruned['median'] / dense['median']:.0%}", beside, "bad")
    return _Card(f"latency, batch {size}", "no clear change", beside)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _figures_of(run: RunRecord) -> Iterator[_Figure | None]:
    yield _figure("course", "The course of training", "Dotted lines mark removals of channels.", figures.course(run))
    yield _figure(
        "steps",
        "Step by step",
        "Accuracy right after each removal, recalibrated, and what was decided.",
        figures.steps(run),
    )
    yield _figure(
        "channels", "Channels along the network", "What is left of every group, front to back.", figures.channels(run)
    )
    yield _figure(
        "latency",
        "Latency",
        "Medians; the whiskers are quartiles, dense and pruned measured in turns.",
        figures.latency(run),
    )
    yield _figure("time", "Where the time went", "All seconds of the run.", figures.time_spent(run))


def _figure(name: str, title: str, note: str, content: figures.Figure | None) -> _Figure | None:
    return None if content is None else _Figure(name, title, note, content)


def _details(run: RunRecord) -> _Table:
    plain = {key: value for key, value in run.report["details"].items() if not isinstance(value, (list, dict))}
    rows = [(key, f"{value:.4g}" if isinstance(value, float) else str(value)) for key, value in plain.items()]
    for removal in run.report["removals"]:
        before, after = (run.metric_text(removal[f"accuracy_{side}"]) for side in ("before", "after"))
        rows.append((f"removal after {removal['epoch']:.2f} epochs", f"{before} before, {after} after (validation)"))
    return _Table(f"What {run.report['method']} tells", ("", ""), rows)


def _several(runs: Sequence[RunRecord]) -> dict[str, Any]:
    highest = max(runs, key=lambda run: run.report["test_accuracy"])
    fastest = min(runs, key=lambda run: run.report["pruned"]["latency"]["1"]["median"])
    shortest = min(runs, key=lambda run: run.total_seconds)
    cards = [
        _Card("runs", str(len(runs)), ", ".join(dict.fromkeys(run.report["method"] for run in runs))),
        _Card(
            f"highest test {highest.report['metric']}",
            highest.metric_text(highest.report["test_accuracy"]),
            highest.name,
        ),
        _Card("fastest, batch 1", f"{fastest.report['pruned']['latency']['1']['median']:.2f} ms", fastest.name),
        _Card("shortest", _duration(shortest.total_seconds), shortest.name),
    ]
    head = ("run", "method", "test", "MACs", "parameters", "latency, batch 1", "time spent")
    return {
        "title": f"{len(runs)} runs",
        "lead": ", ".join(run.name for run in runs),
        "warnings": [],
        "cards": cards,
        "figures": [_Figure("pareto", "Accuracy against its price", "A point for each run.", figures.pareto(runs))],
        "tables": [_Table("Side by side", head, [_row(run) for run in runs])],
        "sources": [(f"Recipe of {run.name}", run.recipe) for run in runs],
    }


def _row(run: RunRecord) -> tuple[str, ...]:
    return (
        run.name,
        run.report["method"],
        run.metric_text(run.report["test_accuracy"]),
        f"{run.kept('macs'):.1%}",
        f"{run.kept('params'):.1%}",
        f"{run.report['pruned']['latency']['1']['median']:.2f} ms",
        _duration(run.total_seconds),
    )


def _rendered(figures: Sequence[_Figure], **content: Any) -> str:
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    template = Environment(loader=PackageLoader("icycle.report", "."), autoescape=True).get_template("page.html.j2")
    # within a script element only "</" and "<!--" would end it; JSON may write < in another way
    drawn = json.dumps({figure.id: figure.content for figure in figures}).replace("<", "\\u003c")
    return template.render(
        figures=figures,
        figure_json=Markup(drawn),
        plotly=Markup(_plotly_script()),
        version=icycle.__version__,
        **content,
    )


@cache
def _plotly_script() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
