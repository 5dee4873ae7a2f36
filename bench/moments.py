"""One-cycle, which decides by itself when to remove, against removals at fixed moments, in every setting there is.

    python bench/moments.py

From the comparisons in bench/results. The best of some fixed moments is favoured by chance where it is chosen by the
very runs that it is compared in. So of every seed the moment counts that is best in the mean over the other seeds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path

from _common import RESULTS, table

from icycle.compare import Result, interval, kept_results

__all__ = ["tables"]

Accuracies = Mapping[str, Mapping[int, float]]  # method -> seed -> test accuracy

_SETTINGS = {  # comparison -> what it is
    "compare_cnn10": "small-cnn, digits, 10 epochs, 25 %",
    "compare_cnn30": "small-cnn, digits, 30 epochs, 25 %",
    "compare_resnet10": "ResNet-20, digits, 10 epochs, 40 %",
    "compare_fashion10": "small-cnn, 1,500 of Fashion-MNIST, 10 epochs, 25 %",
}
_OURS = "one-cycle"
_FIXED = ("fixed", "at-init")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print(tables(RESULTS))


def tables(results: Path) -> str:
    """A row for each setting, and the mean over them."""
    columns = (
        "setting",
        "seeds",
        "moments",
        "best over all seeds",
        "against it",
        "against the best of the other seeds",
    )
    rows, ahead, behind = [], [], []
    for name, words in _SETTINGS.items():
        accuracies = _accuracies(results / f"{name}.json")
        fixed = [label for label in accuracies if label.startswith(_FIXED)]
        seeds = list(accuracies[_OURS])
        best = _best(accuracies, fixed, seeds)
        by_all = [accuracies[_OURS][seed] - accuracies[best][seed] for seed in seeds]
        by_others = [
            accuracies[_OURS][seed] - accuracies[_best(accuracies, fixed, [s for s in seeds if s != seed])][seed]
            for seed in seeds
        ]
        ahead.append(statistics.fmean(by_others))
        behind.append(statistics.fmean(by_all))
        rows.append((words, len(seeds), len(fixed), best, _difference(by_all), _difference(by_others)))
    rows.append(("mean of the settings", "", "", "", _difference(behind), _difference(ahead)))
    return table(columns, rows)


def _accuracies(path: Path) -> Accuracies:
    found: dict[str, dict[int, float]] = {}
    for outcome in kept_results(path).outcomes:
        if isinstance(outcome, Result):
            found.setdefault(outcome.label, {})[outcome.seed] = outcome.test_accuracy
    return found


def _best(accuracies: Accuracies, fixed: list[str], seeds: list[int]) -> str:
    """The fixed moment with the best mean over these seeds."""
    return max(fixed, key=lambda label: statistics.fmean(accuracies[label][seed] for seed in seeds))


def _difference(values: list[float]) -> str:
    return f"{statistics.fmean(values):+.2f} ± {interval(values):.2f}"


if __name__ == "__main__":
    main()
