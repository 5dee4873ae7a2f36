"""One row per method: means over the seeds, and differences paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from icycle.compare._plan import DENSE
from icycle.compare._results import Failure, Kept, Outcome, Result, written
from icycle.errors import RecipeError

__all__ = ["Row", "interval", "markdown", "rows", "text"]

_NONE = "-"


@dataclass(frozen=True)
class Row:
    """A method's figures. `accuracy` is the mean of the test metric, whatever that is; `difference` is its mean paired
    difference against the reference, over the seeds that both have, and `half_width` that of its 95 % interval; None
    with too few of them. `dense_seconds` are those of `seconds` in which the dense network was trained that it started
    from. `latency` is the mean of the runs that tell it from the dense network's; None where most do not."""

    label: str
    runs: int
    accuracy: float
    deviation: float | None
    difference: float | None
    half_width: float | None
    seconds: float
    dense_seconds: float
    seconds_ratio: float | None
    epochs: float
    macs: float
    latency: float | None
    removal_epoch: float | None
    metric: str
    higher_is_better: bool

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table, in the order of its columns."""
        return (
            self.label,
            str(self.runs),
            self._with_spread(self.accuracy, self.deviation),
            self._with_spread(self.difference, self.half_width, "+"),
            f"{self.seconds:.1f}",
            f"{self.dense_seconds:.1f}" if self.dense_seconds else _NONE,
            _NONE if self.seconds_ratio is None else f"{self.seconds_ratio:.2f}",
            f"{self.epochs:.3g}",
            _NONE if self.removal_epoch is None else f"{self.removal_epoch:.3g}",
            f"{self.macs:.1%}",
            "no clear change" if self.latency is None else f"{self.latency:.1%}",
        )

    def _with_spread(self, value: float | None, spread: float | None, sign: str = "") -> str:
        if value is None:
            return _NONE
        return written(self.metric, value, sign) + ("" if spread is None else f" ± {written(self.metric, spread)}")


def rows(outcomes: Sequence[Outcome], against: str = DENSE) -> list[Row]:
    """A row per label with a result, in the order in which they first come.

    Raises:
        RecipeError: there is no method `against`.
    """
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    known = list(dict.fromkeys(outcome.label for outcome in outcomes))
    if against not in known:
        raise RecipeError(f"Expected --against as one of {', '.join(known)}, but got '{against}'")
    by_label = {label: {r.seed: r for r in results if r.label == label} for label in known}
    return [_row(label, own, by_label[against], by_label.get(DENSE, {})) for label, own in by_label.items() if own]


def _row(label: str, own: dict[int, Result], reference: dict[int, Result], dense: dict[int, Result]) -> Row:
    first = next(iter(own.values()))
    accuracies = [result.test_accuracy for result in own.values()]
    differences = [own[seed].test_accuracy - reference[seed].test_accuracy for seed in own if seed in reference]
    removals = [result.removal_epoch for result in own.values() if result.removal_epoch is not None]
    latencies = [result.latency for result in own.values() if result.latency is not None]
    ratios = [own[seed].seconds / dense[seed].seconds for seed in own if seed in dense]

    def mean(value: Callable[[Result], float]) -> float:
        return statistics.fmean(map(value, own.values()))

    return Row(
        label=label,
        runs=len(own),
        accuracy=statistics.fmean(accuracies),
        deviation=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        difference=statistics.fmean(differences) if differences else None,
        half_width=interval(differences),
        seconds=mean(lambda result: result.seconds),
        dense_seconds=mean(lambda result: result.dense_seconds),
        seconds_ratio=statistics.fmean(ratios) if ratios else None,
        epochs=mean(lambda result: result.epochs),
        macs=mean(lambda result: result.macs),
        latency=statistics.fmean(latencies) if 2 * len(latencies) > len(own) else None,
        removal_epoch=statistics.fmean(removals) if removals else None,
        metric=first.metric,
        higher_is_better=first.higher_is_better,
    )


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % confidence interval of the mean, by Student's t; None for fewer than two values."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def markdown(outcomes: Sequence[Outcome], against: str = DENSE) -> str:
    """The table in Markdown, padded so that it can be read as it is: a row per method, and one per run that failed."""
    metric = next((outcome.metric for outcome in outcomes if isinstance(outcome, Result)), "accuracy")
    columns = (
        *("", "runs", f"test {metric}", "difference, 95 %", "seconds", "of them dense", "/ dense"),
        *("epochs", "removed at epoch", "MACs", "latency, batch 64"),
    )
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    failed = [(f"{run.label}, seed {run.seed}", "failed", *[_NONE] * (len(columns) - 2)) for run in failures]
    cells = [columns, *(row.cells for row in rows(outcomes, against)), *failed]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(columns))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]]) + "\n"


def text(kept: Kept) -> str:
    """The table, why runs failed, and below it where and by what it was made."""
    lower = {each.metric for each in kept.outcomes if isinstance(each, Result) and not each.higher_is_better}
    seeds = ", ".join(map(str, dict.fromkeys(outcome.seed for outcome in kept.outcomes)))
    parts = [
        f"Differences against {kept.against}, paired by seed. *Of them dense*: seconds of the network that a method "
        "started from; they count, once for every method.\n",
        *(f"The lower the {metric}, the better.\n" for metric in lower),
        markdown(kept.outcomes, kept.against),
        *(f"{run.label}, seed {run.seed}: {run.why}\n" for run in kept.outcomes if isinstance(run, Failure)),
        f"{len(kept.outcomes)} runs of `{kept.command}`, seeds {seeds}; {'; or '.join(kept.environments)}.\n",
    ]
    return "\n".join(parts)
