"""The page that compares runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from icycle.report import figures
from icycle.report._parts import Card, Content, Section, Table, duration
from icycle.report._runs import RunRecord
from icycle.report._series import Series, in_series

__all__ = ["several_runs"]

_NOTES = {
    "seconds": "What the runs took, with those that trained the weights they began with; reading data, measuring "
    "latency and writing files not.",
    "macs": "What is left to compute for one input.",
    "latency": "Medians, measured at the end of each run; the machine may have been busy at one and idle at another.",
}


def several_runs(runs: Sequence[RunRecord]) -> Content:
    """The runs, those that differ in the seed alone taken together."""
    series = in_series(runs)
    return Content(
        kind="comparison",
        title=f"{len(runs)} runs" if len(runs) == len(series) else f"{len(runs)} runs in {len(series)} series",
        lead=f"{runs[0].report['metric']} against what it cost: {', '.join(one.name for one in series)}.",
        facts=[],
        warnings=list(_warnings(runs, series)),
        cards=list(_cards(runs, series)),
        sections=list(_sections(series)),
        tables=[_table(series), _singles(runs)],
        sources=[(f"Recipe of {run.name}", run.recipe) for run in runs],
    )


def _warnings(runs: Sequence[RunRecord], series: Sequence[Series]) -> Iterator[str]:
    metrics = dict.fromkeys(run.report["metric"] for run in runs)
    if len(metrics) > 1:
        yield f"These runs measure different things ({', '.join(metrics)}); their values cannot be compared."
    data = {str(run.settings.get("data")) for run in runs}
    if len(data) > 1:
        yield "These runs were not made on the same data."
    short = [one.name for one in series if any(run.untold for run in one.runs)]
    if short:
        yield (
            f"The seconds of {', '.join(short)} are without the training of the weights that these runs began with: "
            "no finished run lies where they came from."
        )
    if all(len(one.runs) == 1 for one in series):
        yield "One run each is no spread: repeat them with --seed 1 before trusting a difference."


def _cards(runs: Sequence[RunRecord], series: Sequence[Series]) -> Iterator[Card]:
    first = series[0].runs[0]
    best = (max if first.higher_is_better else min)(series, key=lambda one: one.spread(_test).mean)
    word = "highest" if first.higher_is_better else "lowest"
    yield Card(f"{word} test {first.report['metric']}", _metric(best), best.name)
    smallest = min(series, key=lambda one: one.spread(_macs).mean)
    yield Card("fewest MACs", smallest.spread(_macs).text(".1f", 100, " %"), smallest.name)
    fastest = min(series, key=lambda one: one.spread(_latency).mean)
    yield Card("fastest, batch 1", fastest.spread(_latency).text(".2f", unit=" ms"), fastest.name)
    if len({run.untold for run in runs}) == 1:  # else some leave out more than others
        shortest = min(series, key=lambda one: one.spread(_seconds).mean)
        yield Card("shortest", duration(shortest.spread(_seconds).mean), shortest.name)


def _test(run: RunRecord) -> float:
    return run.test_metric


def _macs(run: RunRecord) -> float:
    return run.kept("macs")


def _params(run: RunRecord) -> float:
    return run.kept("params")


def _latency(run: RunRecord) -> float:
    return run.latency("1")


def _seconds(run: RunRecord) -> float:
    return run.seconds_in_all


def _metric(one: Series) -> str:
    percent = one.runs[0].report["metric"] == "accuracy"
    return one.spread(_test).text(".2f" if percent else ".4g", unit=" %" if percent else "")


def _sections(series: Sequence[Series]) -> Iterator[Section]:
    for price, (title, _) in figures.PRICES.items():
        note = _NOTES[price] + (" Whiskers are standard deviations over the seeds." if price == "seconds" else "")
        yield Section(price, f"Over {title}", note, figures.pareto(series, price), width=1)


def _table(series: Sequence[Series]) -> Table:
    head = ("series", "runs", "test", "against dense", "MACs", "parameters", "latency, batch 1", "seconds")
    dense = next((one for one in series if one.runs[0].report["method"] == "dense"), None)
    rows = [
        (
            one.name,
            str(len(one.runs)),
            _metric(one),
            "" if dense is None or one is dense else f"{one.spread(_test).mean - dense.spread(_test).mean:+.2f}",
            one.spread(_macs).text(".1f", 100, " %"),
            one.spread(_params).text(".1f", 100, " %"),
            one.spread(_latency).text(".2f", unit=" ms"),
            one.spread(_seconds).text(".1f"),
        )
        for one in series
    ]
    return Table("Side by side: means and standard deviations", head, rows)


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
