"""The page that compares runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from icycle.report import figures
from icycle.report._parts import Card, Content, Section, Table, duration
from icycle.report._records import Latency
from icycle.report._runs import RunRecord
from icycle.report._series import Series, in_series, seconds_comparable

__all__ = ["several_runs"]

_NOTES = {
    "seconds": "What the runs took, with those that trained the weights they began with; reading data, measuring "
    "latency and writing files not.",
    "macs": "What is left to compute for one input.",
    "latency": "Medians, measured at the end of each run; the machine may have been busy at one and idle at another.",
}


def several_runs(runs: Sequence[RunRecord]) -> Content:
    """The runs, those that differ in the seed alone taken together."""
    runs = _told_apart(runs)
    series = in_series(runs)
    return Content(
        kind="comparison",
        title=f"{len(runs)} runs" if len(runs) == len(series) else f"{len(runs)} runs in {len(series)} series",
        lead=f"{' and '.join(_metrics(runs))} against what it cost: {', '.join(one.name for one in series)}.",
        facts=[],
        warnings=list(_warnings(runs, series)),
        cards=list(_cards(runs, series)),
        sections=list(_sections(series)),
        tables=[_table(series), _singles(runs)],
        sources=[(f"Recipe of {run.name}", run.recipe) for run in runs],
    )


def _told_apart(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs; where names are equal, with as much of their paths as it takes to tell them apart."""

    def name(run: RunRecord) -> str:
        parts = run.folder.parts
        tails = (parts[-count:] for count in range(1, len(parts)))
        alone = (tail for tail in tails if sum(other.folder.parts[-len(tail) :] == tail for other in runs) == 1)
        return "/".join(next(alone, parts))

    return [replace(run, name=name(run)) for run in runs]


def _warnings(runs: Sequence[RunRecord], series: Sequence[Series]) -> Iterator[str]:
    if len(_metrics(runs)) > 1:
        yield f"These runs measure different things ({', '.join(_metrics(runs))}); their values cannot be compared."
    if any(run.settings.get("data") != runs[0].settings.get("data") for run in runs):
        yield "These runs were not made on the same data."
    if any(_network(run) != _network(runs[0]) for run in runs):
        yield "These runs are not of the same network."
    short = [one.name for one in series if any(run.untold for run in one.runs)]
    if short:
        yield (
            f"The seconds of {', '.join(short)} are without the training of the weights that these runs began with: "
            "no finished run lies where they came from."
        )
    if all(len(one.seeds) == 1 for one in series):
        yield "One seed each is no spread: repeat the runs with --seed 1 before trusting a difference."
    twice = [one.name for one in series if len(one.seeds) < len(one.runs)]
    if twice:
        yield f"Several runs of one seed count like runs of several seeds: {', '.join(twice)}."


def _cards(runs: Sequence[RunRecord], series: Sequence[Series]) -> Iterator[Card]:
    first = runs[0]
    if len(_metrics(runs)) == 1:
        best = (max if first.higher_is_better else min)(series, key=lambda one: one.spread(_test).mean)
        word = "highest" if first.higher_is_better else "lowest"
        yield Card(f"{word} test {first.report['metric']}", _metric(best), best.name)
    smallest = min(series, key=lambda one: one.spread(_macs).mean)
    yield Card("fewest MACs", smallest.spread(_macs).text(".1f", 100, " %"), smallest.name)
    yield _fastest(series)
    if seconds_comparable(series):
        shortest = min(series, key=lambda one: one.spread(_seconds).mean)
        yield Card("shortest", duration(shortest.spread(_seconds).mean), shortest.name)


def _fastest(series: Sequence[Series]) -> Card:
    """The lowest latency, and the series that most pairs of runs do not clearly tell from it."""
    fastest = min(series, key=lambda one: one.spread(_latency).mean)
    alike = [one.name for one in series if one is not fastest and not _clearly_differ(fastest, one)]
    beside = f"{fastest.name}; no clear difference from {', '.join(alike)}" if alike else fastest.name
    return Card("fastest, batch 1", fastest.spread(_latency).text(".2f", unit=" ms"), beside)


def _clearly_differ(one: Series, other: Series) -> bool:
    readings = ([Latency(**run.report["pruned"]["latency"]["1"]) for run in own.runs] for own in (one, other))
    pairs = [mine.told_apart(theirs) for mine, theirs in itertools.product(*readings)]
    return 2 * sum(pairs) > len(pairs)


def _metrics(runs: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(run.report["metric"] for run in runs))


def _network(run: RunRecord) -> dict[str, Any]:
    """The settings that make a network, which its weights do not."""
    return {key: value for key, value in (run.settings.get("model") or {}).items() if key != "weights"}


def _problem(run: RunRecord) -> tuple[Any, ...]:
    """What has to be equal where one value is taken from another."""
    return run.settings.get("data"), _network(run), run.settings.get("task"), run.report["metric"]


def _test(run: RunRecord) -> float:
    return run.test_metric


def _macs(run: RunRecord) -> float:
    return run.kept("macs")


def _params(run: RunRecord) -> float:
    return run.kept("params")


def _memory(run: RunRecord) -> float:
    return run.kept("memory")


def _latency(run: RunRecord) -> float:
    return run.latency("1")


def _seconds(run: RunRecord) -> float:
    return run.seconds_in_all


def _percent(run: RunRecord) -> bool:
    return bool(run.report["metric"] == "accuracy")


def _metric(one: Series) -> str:
    percent = _percent(one.runs[0])
    return one.spread(_test).text(".2f" if percent else ".4g", unit=" %" if percent else "")


def _sections(series: Sequence[Series]) -> Iterator[Section]:
    for price, (title, _) in figures.PRICES.items():
        note = _NOTES[price] + (" Whiskers are standard deviations over the seeds." if price == "seconds" else "")
        yield Section(price, f"Over {title}", note, figures.pareto(series, price), width=1)


def _table(series: Sequence[Series]) -> Table:
    def share(of: Callable[[RunRecord], float]) -> Callable[[Series], str]:
        return lambda one: one.spread(of).text(".1f", 100, " %")

    runs = [run for one in series for run in one.runs]
    memory = any(run.spares_memory for run in runs) and all("memory" in run.report["pruned"] for run in runs)
    columns: dict[str, Callable[[Series], str]] = {
        "series": lambda one: one.name,
        "runs": lambda one: str(len(one.runs)),
        "test": _metric,
        "against dense": partial(_against_dense, series),
        "MACs": share(_macs),
        "parameters": share(_params),
        **({"memory": share(_memory)} if memory else {}),
        "latency, batch 1": lambda one: one.spread(_latency).text(".2f", unit=" ms"),
        "seconds": lambda one: one.spread(_seconds).text(".1f"),
    }
    rows = [tuple(text(one) for text in columns.values()) for one in series]
    return Table("Side by side: means and standard deviations", tuple(columns), rows)


def _against_dense(series: Sequence[Series], one: Series) -> str:
    """The difference to the dense series of the same problem, trained alike if there is one; nothing without any."""
    own = one.runs[0]
    same = [other for other in series if _problem(other.runs[0]) == _problem(own)]
    dense = [other for other in same if other.runs[0].report["method"] == "dense"]
    alike = [other for other in dense if other.runs[0].settings.get("train") == own.settings.get("train")]
    against = next(iter([*alike, *dense]), one)
    if against is one:
        return ""
    return f"{one.spread(_test).mean - against.spread(_test).mean:{'+.2f' if _percent(own) else '+.4g'}}"


def _singles(runs: Sequence[RunRecord]) -> Table:
    head = ("run", "method", "seed", "test", "MACs", "latency, batch 1", "time spent")
    rows = [
        (
            run.name,
            run.report["method"],
            str(run.report.get("seed", "")),
            run.metric_text(run.test_metric),
            f"{run.kept('macs'):.1%}",
            f"{run.latency('1'):.2f} ms",
            duration(run.seconds_in_all),
        )
        for run in runs
    ]
    return Table("Every run", head, rows)
