"""One row per method: means over the seeds, and differences paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from icycle.compare._results import Result
from icycle.errors import RecipeError

__all__ = ["COLUMNS", "Row", "interval", "markdown", "rows"]

COLUMNS = ("", "runs", "test accuracy", "difference, 95 %", "seconds", "/ dense", "epochs", "MACs", "latency, batch 64")


@dataclass(frozen=True)
class Row:
    """A method's figures. `difference` is the mean paired difference of the test accuracy (points) against the
    reference, and `half_width` that of its 95 % interval; None with fewer than two seeds in common."""

    label: str
    runs: int
    accuracy: float
    deviation: float | None
    difference: float
    half_width: float | None
    seconds: float
    seconds_ratio: float
    epochs: float
    macs: float
    latency: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table, in the order of `COLUMNS`."""
        return (
            self.label,
            str(self.runs),
            _with_spread(self.accuracy, self.deviation, ".2f"),
            _with_spread(self.difference, self.half_width, "+.2f"),
            f"{self.seconds:.1f}",
            f"{self.seconds_ratio:.2f}",
            f"{self.epochs:.3g}",
            f"{self.macs:.1%}",
            f"{self.latency:.1%}",
        )


def rows(results: Sequence[Result], against: str) -> list[Row]:
    """A row per label, in the order in which they first come.

    Raises:
        RecipeError: there is no method `against`.
    """
    labels = list(dict.fromkeys(result.label for result in results))
    if against not in labels:
        raise RecipeError(f"Expected --against as one of {', '.join(labels)}, but got '{against}'")
    by_label = {label: {r.seed: r for r in results if r.label == label} for label in labels}
    return [_row(label, by_label[label], by_label[against], by_label["dense"]) for label in labels]


def _row(label: str, own: dict[int, Result], reference: dict[int, Result], dense: dict[int, Result]) -> Row:
    accuracies = [result.test_accuracy for result in own.values()]
    differences = [own[seed].test_accuracy - reference[seed].test_accuracy for seed in own if seed in reference]

    def mean(value: Callable[[Result], float]) -> float:
        return statistics.fmean(map(value, own.values()))

    return Row(
        label=label,
        runs=len(own),
        accuracy=statistics.fmean(accuracies),
        deviation=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        difference=statistics.fmean(differences),
        half_width=interval(differences),
        seconds=mean(lambda result: result.seconds),
        seconds_ratio=mean(lambda result: result.seconds / dense[result.seed].seconds),
        epochs=mean(lambda result: result.epochs),
        macs=mean(lambda result: result.macs),
        latency=mean(lambda result: result.latency),
    )


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % confidence interval of the mean, by Student's t; None for fewer than two values."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def markdown(table: Sequence[Row]) -> str:
    """The table in Markdown, padded so that it can be read as it is."""
    cells = [COLUMNS, *(row.cells for row in table)]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(COLUMNS))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]]) + "\n"


def _with_spread(value: float, spread: float | None, form: str) -> str:
    return format(value, form) + ("" if spread is None else f" ± {spread:.2f}")
