"""The page of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from icycle.report import figures
from icycle.report._parts import Card, Content, Section, Table, duration
from icycle.report._records import AskedLatency, Latency
from icycle.report._runs import RunRecord
from icycle.runs import seconds_spent

__all__ = ["one_run"]

_WHY = {"stable": "the search for them had settled", "deadline": "its time was over before the search had settled"}


def one_run(run: RunRecord) -> Content:
    """What there is to say about a run."""
    report = run.report
    return Content(
        kind="run",
        title=run.name,
        lead=_lead(run),
        facts=list(_facts(run)),
        warnings=list(_warnings(run)),
        cards=list(_cards(run)),
        sections=[section for section in _sections(run) if section is not None],
        tables=[_details(run), Table("Where it was measured", (), list(report["environment"].items()))],
        sources=[("The recipe, every value spelled out", run.recipe)],
    )


def _lead(run: RunRecord) -> str:
    result = f"test {run.report['metric']} {run.metric_text(run.test_metric)}"
    if run.kept("macs") == 1:
        return f"Nothing was removed from the dense network; {result}."
    return f"{run.kept('macs'):.1%} of the dense network's multiplications are left; {result}."


def _facts(run: RunRecord) -> Iterator[tuple[str, str]]:
    report = run.report
    asked = {
        "recipe": report["recipe"],
        "method": report["method"],
        "criterion": report.get("criterion"),
        "seed": report.get("seed"),
        "network": run.settings.get("model", {}).get("name"),
        "device": report["environment"].get("device"),
    }
    yield from ((name, str(value)) for name, value in asked.items() if value not in (None, ""))


def _warnings(run: RunRecord) -> Iterator[str]:
    for size, dense in run.report["dense"]["latency"].items():
        pruned = run.report["pruned"]["latency"][size]
        if pruned["median"] > dense["median"] and Latency(**pruned).told_apart(Latency(**dense)):
            yield f"At batch {size} the pruned network is slower than the dense one."


def _cards(run: RunRecord) -> Iterator[Card]:
    report = run.report
    yield Card(f"test {report['metric']}", run.metric_text(run.test_metric), _against_dense(run))
    costs = [("macs", "multiplications (MACs)", ""), ("params", "parameters", "")]
    if run.spares_memory:
        costs.append(("memory", "peak memory of activations", " bytes for one input"))
    for cost, words, unit in costs:
        share, dense = run.kept(cost), report["dense"][cost]
        yield Card(words, f"{share:.1%}", f"{report['pruned'][cost]:,} of {dense:,}{unit}", share=share)
    asked = report.get("asked_latency")
    if asked is not None:
        yield _latency_card(AskedLatency(**asked).where, asked["dense"], asked["pruned"])
    for size, dense in report["dense"]["latency"].items():
        yield _latency_card(f"latency, batch {size}", dense, report["pruned"]["latency"][size])
    yield Card("time spent", duration(run.seconds_spent), _time_beside(run))


def _against_dense(run: RunRecord) -> str:
    end = run.report["validation_accuracy"]
    validation = f"validation {run.metric_text(end)}"
    dense = run.dense_metric
    if dense is None:
        return validation
    return f"{validation}, {end - dense:+.2f} against the dense network"


def _time_beside(run: RunRecord) -> str:
    """Against dense training, where the run has epochs of both networks."""
    if run.stepwise:
        training = sum(seconds_spent(record.get("seconds", {})) for record in run.of_kind("epoch"))
        return f"{duration(run.seconds_spent - training)} of it for pruning" if training else "from trained weights"
    dense, pruned = run.epoch_seconds(pruned=False), run.epoch_seconds(pruned=True)
    if dense is None or pruned is None or not run.within_training:
        return f"{len(run.of_kind('epoch'))} epochs"
    share = run.seconds_spent / (run.epochs * dense)
    return f"{share:.0%} of {run.epochs:g} dense epochs; one takes {dense:.2g} s dense, {pruned:.2g} s pruned"


def _latency_card(name: str, dense: Mapping[str, Any], pruned: Mapping[str, Any]) -> Card:
    """No ratio where the machine does not tell the two apart."""
    beside = f"{pruned['median']:.2f} ms, dense {dense['median']:.2f} ms"
    if not Latency(**pruned).told_apart(Latency(**dense)):
        return Card(name, "no clear change", beside)
    share = pruned["median"] / dense["median"]
    return Card(name, f"{share:.0%}", beside, "good" if share < 1 else "bad", share)


def _sections(run: RunRecord) -> Iterator[Section | None]:
    yield _section("course", "The course of training", _course_note(run), figures.course(run), _epochs(run))
    yield _section(
        "steps",
        "Step by step",
        _steps_note(run),
        figures.steps(run),
        _steps(run),
    )
    yield _section(
        "channels",
        "Channels along the network",
        "What is left of every group of channels, front to back. Channels of one group stand or fall together, in all "
        "of its members.",
        figures.channels(run),
        _groups(run),
    )
    yield _section(
        "saliency",
        "Scores and the cut",
        "A curve for each group that lost channels: the scores of its last removal in their order, as multiples of the "
        "score at which it was cut. What went lies below the dashed line. A steep curve is a clear choice, a flat one "
        "a toss-up.",
        figures.saliency(run),
        _cuts(run),
    )
    yield _section(
        "latency",
        "Latency",
        "Medians as shares of the dense network's; the whiskers are quartiles, both networks measured in turns.",
        figures.latency(run),
        _latencies(run),
        width=2,
    )
    yield _section(
        "prediction",
        "Latency, predicted and measured",
        "Sub-networks that the search for a latency measured, one after the other; what it learns corrects the next "
        "prediction.",
        figures.prediction(run),
        _attempts(run),
        width=1,
    )
    yield _section(
        "time",
        "Where the time went",
        "All seconds of the run, by stage.",
        figures.time_spent(run),
        _spent(run),
        width=3 if run.attempts else 1,
    )


def _section(
    name: str, title: str, note: str, figure: figures.Figure | None, numbers: Table | None = None, width: int = 3
) -> Section | None:
    return None if figure is None else Section(name, title, note, figure, numbers, width)


def _course_note(run: RunRecord) -> str:
    removals = run.within_training
    if not removals:
        return f"The validation {run.metric} after every epoch."
    first = removals[0]
    kept = removals[-1]["macs_kept"]
    if len(removals) > 1:
        when = f"in {len(removals)} removals, the first after {first['epoch']:.1f} epochs"
    else:
        when = f"after {first['epoch']:.1f} epochs"
    reason = _WHY.get(str(run.reason))
    because = f", because {reason}" if reason else ""
    told = f"Channels went {when}{because}; {kept:.0%} of the MACs were left."
    if run.of_kind("search"):
        told += (
            " The indicator is the similarity of the sub-network that would be chosen to the one chosen a little "
            "earlier; dotted lines are the values at which the search has settled."
        )
    return told


def _epochs(run: RunRecord) -> Table:
    records = run.of_kind("epoch")
    rows = [
        (str(one["epoch"]), f"{one.get('loss', float('nan')):.4f}", run.metric_text(one["validation_accuracy"]))
        for one in records
    ]
    return Table("Epochs", ("epoch", "loss", f"validation {run.report['metric']}"), rows)


def _steps_note(run: RunRecord) -> str:
    seconds = "Below, where the time of each step went."
    if all(step["decision"]["accuracy"] is None for step in run.of_kind("step")):
        return f"What each removal led to, without a look at the validation split. {seconds}"
    return (
        f"The validation {run.metric} right after each removal, and what it led to. A fine-tune is due where it has "
        "fallen from the dense network's to the threshold, or would by the removal of all the rest at once; after the "
        "last removal comes the final one. "
        f"{seconds}"
    )


def _steps(run: RunRecord) -> Table:
    rows = [
        (
            str(one["number"]),
            ", ".join(f"{name} {count}" for name, count in one["kept"].items()),
            f"{one['macs_kept']:.1%}",
            figures.evidence(run, one),
            f"fine-tune, epochs: {one['fine_tuned']:g}" if one["fine_tuned"] else "no fine-tune",
            f"{sum(one.get('seconds', {}).values()):.1f}",
        )
        for one in run.of_kind("step")
    ]
    return Table("Steps", ("step", "channels kept", "MACs left", "evidence", "decision", "seconds"), rows)


def _groups(run: RunRecord) -> Table:
    rows = [
        (one["name"], str(one["kept"]), str(one["size"]), ", ".join(one["members"]))
        for one in run.report.get("groups", [])
    ]
    return Table("Groups", ("group", "kept", "of", "members"), rows)


def _cuts(run: RunRecord) -> Table:
    rows = [
        (name, f"{group['cut']:.4g}", _range(group["removed"]), _range(group["kept"]))
        for name, group in run.choices.items()
    ]
    return Table("Scores", ("group", "cut", "scores that went", "scores that stayed"), rows)


def _range(scores: list[float]) -> str:
    return f"{scores[0]:.4g} to {scores[-1]:.4g}" if scores else "none"


def _latencies(run: RunRecord) -> Table:
    def text(network: str, size: str) -> str:
        one = run.report[network]["latency"][size]
        return f"{one['median']:.3g} ms ({one['lower']:.3g}-{one['upper']:.3g})"

    rows = [(size, text("dense", size), text("pruned", size)) for size in run.report["dense"]["latency"]]
    return Table("Latency", ("batch", "dense, median (quartiles)", "pruned"), rows)


def _attempts(run: RunRecord) -> Table:
    names = ("predicted", "measured", "allowed")
    rows = [
        (str(number), *(f"{one[name]:.4g} ms" for name in names)) for number, one in enumerate(run.attempts, start=1)
    ]
    return Table("Attempts", ("attempt", *names), rows)


def _spent(run: RunRecord) -> Table:
    return Table(
        "Seconds", ("stage", "seconds"), [(stage, f"{spent:.1f}") for stage, spent in run.report["seconds"].items()]
    )


def _details(run: RunRecord) -> Table:
    plain = {key: value for key, value in run.report["details"].items() if not isinstance(value, (list, dict))}
    rows = [(key, _plain(value)) for key, value in plain.items()]
    for removal in run.report["removals"]:
        before, after = (run.metric_text(removal[f"accuracy_{side}"]) for side in ("before", "after"))
        several = removal.get("removals", 1) > 1
        which, first = (f"{removal['removals']} removals, the last", " the first") if several else ("removal", "")
        told = f"{before} before{first}, {after} after (validation)"
        rows.append((f"{which} after {removal['epoch']:.2f} epochs", told))
    return Table(f"What {run.report['method']} tells", (), rows)


def _plain(value: Any) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
