"""The final table of a run, for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from icycle.report._records import Latency, Report

__all__ = ["render", "summary"]


def render(report: Report) -> RenderableType:
    """Dense against pruned, accuracies, seconds by stage, and a plain word where pruning made the network slower."""
    return Group(_costs(report), _accuracies(report), *_details(report), _seconds(report), *_remarks(report))


def summary(report: Report) -> str:
    """One row of a Markdown table: what was run, what it gave, and what is left of the dense network's costs."""
    dense, pruned = report.dense, report.pruned
    cells = [
        report.recipe,
        " ".join(word for word in (report.method, report.criterion) if word),
        f"seed {report.seed}",
        f"test {report.metric} {report.test_accuracy:.2f}",
        f"MACs {pruned.macs / dense.macs:.1%}",
        f"parameters {pruned.params / dense.params:.1%}",
        *(f"{where}: {_latency_left(*both)}" for where, both in _latencies(report).items()),
        f"{sum(report.seconds.values()):.1f} s",
    ]
    return f"| {' | '.join(cells)} |"


def _costs(report: Report) -> Table:
    dense, pruned = report.dense, report.pruned
    table = Table(title=f"{report.recipe}: {report.method}", title_justify="left")
    for column in ("", "dense", "pruned", "pruned / dense"):
        table.add_column(column, justify="left" if not column else "right")
    for label, before, after in (
        ("MACs per input", dense.macs, pruned.macs),
        ("parameters", dense.params, pruned.params),
        ("file size, bytes", dense.file_bytes, pruned.file_bytes),
        ("activations, bytes", dense.memory, pruned.memory),
    ):
        table.add_row(label, f"{before:,}", f"{after:,}", f"{after / before:.1%}")
    for where, both in _latencies(report).items():
        table.add_row(where, *map(_milliseconds, both), _latency_left(*both))
    return table


def _latencies(report: Report) -> dict[str, tuple[Latency, Latency]]:
    """Of the dense network and the pruned one: first where a latency was asked for, then as ever."""
    asked, dense, pruned = report.asked_latency, report.dense.latency, report.pruned.latency
    found = {} if asked is None else {asked.where: (asked.dense, asked.pruned)}
    return found | {f"latency, batch {size}": (dense[size], pruned[size]) for size in dense}


def _latency_left(dense: Latency, pruned: Latency) -> str:
    return f"{pruned.median / dense.median:.1%}" if pruned.told_apart(dense) else "no clear change"


def _milliseconds(latency: Latency) -> str:
    return f"{latency.median:.2f} ms ({latency.lower:.2f}-{latency.upper:.2f})"


def _accuracies(report: Report) -> Table:
    title = "accuracy, percent" if report.metric == "accuracy" else report.metric
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("split")
    table.add_column(report.metric, justify="right")
    for removal in report.removals:
        when, several = f"after {removal.epoch:.2f} epochs", removal.removals > 1
        before = f"the first of {removal.removals} removals" if several else f"the removal {when}"
        after = f"the last, {when}" if several else "it"
        table.add_row(f"before {before}", "validation", f"{removal.accuracy_before:.2f}")
        left = f"{removal.macs_kept:.1%} of the MACs left"
        table.add_row(f"just after {after}, {left}", "validation", f"{removal.accuracy_after:.2f}")
    table.add_row("at the end", "validation", f"{report.validation_accuracy:.2f}")
    table.add_row("at the end", "test", f"{report.test_accuracy:.2f}")
    for name, value in report.test_metrics.items():
        if name != report.metric:
            table.add_row(name, "test", f"{value:.2f}")
    return table


def _seconds(report: Report) -> Table:
    table = Table(title="seconds", title_justify="left")
    for stage in (*report.seconds, "total"):
        table.add_column(stage, justify="right", overflow="fold")
    table.add_row(*(f"{seconds:.1f}" for seconds in (*report.seconds.values(), sum(report.seconds.values()))))
    return table


def _details(report: Report) -> list[Table]:
    """What the method tells, where it is a number or a word."""
    told = {word: value for word, value in report.details.items() if isinstance(value, int | float | str)}
    if not told:
        return []
    table = Table(title=report.method, title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    for word, value in told.items():
        table.add_row(word, f"{value:g}" if isinstance(value, float) else str(value))
    return [table]


def _remarks(report: Report) -> list[Text]:
    if report.pruned.macs == report.dense.macs:
        return [Text("Nothing was removed.")]
    return [
        Text(
            f"The pruned network is SLOWER than the dense one at batch {size}: {1 / report.speedup(size):.2f} times "
            "its latency. Wider rounding (method.round_to) or a wider network suits this device better.",
            style="bold red",
        )
        for size in report.dense.latency
        if report.speedup(size) < 1 and report.told_apart(size)
    ]
