"""`icycle runs`: what was run, and what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from icycle.runs import RunEntry

__all__ = ["runs"]


def runs(
    folder: Annotated[Path, typer.Argument(help="Where the runs are; folders in it are searched, too.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the runs of FOLDER: method, the metric that decides, what is left of the dense network, seconds, state.

    The metric is that of the test set where a run is finished, and that of the last validation where it is not.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from icycle.runs import list_runs

    found = list_runs(folder)
    if as_json:
        print(json.dumps([{**asdict(run), "path": str(run.path)} for run in found], indent=2))
        return
    if not found:
        typer.echo(f"No runs in {folder}; icycle run RECIPE makes one")
        return
    columns = ("run", "method", "metric", "MACs", "latency", "seconds", "state")
    table = Table(*(Column(name, overflow="fold") for name in columns))  # a name that is cut cannot be copied
    for run in found:
        table.add_row(*map(escape, _cells(run, folder)))
    Console().print(table)


def _cells(run: RunEntry, folder: Path) -> tuple[str, ...]:
    name = str(run.path.relative_to(folder)) if run.path != folder else run.path.name
    value = "" if run.value is None else f"{run.value:.2f} %" if run.metric == "accuracy" else f"{run.value:.4g}"
    metric = "" if run.metric in (None, "accuracy") else f"{run.metric} "
    return (
        name,
        run.method or "",
        metric + value + ("" if run.value is None or run.state == "finished" else " so far"),
        "" if run.macs is None else f"{run.macs:.1%}",
        _latency(run),
        "" if run.seconds is None else f"{run.seconds:.1f}",
        run.state if run.problem is None else f"{run.state}: {run.problem}",
    )


def _latency(run: RunEntry) -> str:
    if run.latency is None:
        return ""
    return f"{run.latency:.2f} ms ({'no clear change' if run.speedup is None else f'{1 / run.speedup:.0%}'})"
