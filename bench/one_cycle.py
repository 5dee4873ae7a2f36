"""One-cycle against the shape it finds trained from scratch, against removals at fixed moments, and with other parts.

    python bench/one_cycle.py --settings turned_12 pretrained_50 --seeds 0 1 2 3 4

Runs `icycle compare` with every method in these settings, and keeps its results in bench/results; what was finished or
interrupted under runs/one-cycle is not repeated. Without settings it only prints the tables of what has been run. All
differences are paired by seed, with 95 % intervals.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from _common import RESULTS, table

from icycle.compare import Result, interval, kept_results

__all__ = ["TABLES"]

Accuracies = Mapping[str, Mapping[int, float]]  # method -> seed -> test accuracy

_BENCH = Path(__file__).parent
_RUNS = Path("runs")  # where turned-pretrained.yaml looks for the weights that it starts from
_PRETRAINING = "turned-pretraining"


@dataclass(frozen=True)
class Setting:
    """A recipe, of icycle or in bench/recipes, with other values; `words` say in a table what it is."""

    words: str
    recipe: str
    overrides: tuple[str, ...] = ()


_DIGITS = ("model.width=16", "method.budget.macs=0.25", "method.round_to=4")
_SETTINGS = {
    "cnn10": Setting("small-cnn, digits, 10 epochs, 25 %", "digits", (*_DIGITS, "train.epochs=10")),
    "cnn30": Setting("small-cnn, digits, 30 epochs, 25 %", "digits", (*_DIGITS, "train.epochs=30")),
    "resnet10": Setting(
        "ResNet-20, digits, 10 epochs, 40 %",
        "digits",
        ("model.name=resnet20", "model.width=8", "train.epochs=10", "method.budget.macs=0.4", "method.round_to=2"),
    ),
    "fashion10": Setting(
        "small-cnn, 1,500 of Fashion-MNIST, 25 %",
        "digits",
        ("data.name=fashion-mnist", "data.subset=1500", *_DIGITS, "train.epochs=10"),
    ),
    "turned_25": Setting("ResNet-8, 40 classes, 25 %", "turned-resnet"),
    "turned_12": Setting(
        "ResNet-8, 40 classes, 12 %", "turned-resnet", ("method.budget.macs=0.12", "method.limit=0.9")
    ),
    "pretrained_50": Setting("ResNet-8, pretrained, 50 %", "turned-pretrained"),
    "pretrained_25": Setting("ResNet-8, pretrained, 25 %", "turned-pretrained", ("method.budget.macs=0.25",)),
}
_OURS = "one-cycle"
_BASELINES = {  # method -> its column
    "dense": "dense",
    "scratch": "scratch, epochs",
    "scratch:equal=seconds": "scratch, seconds",
    "uniform": "uniform",
    "at-init": "at-init",
    "at-init:compensate=true": "at-init, compensated",
}
_CHANGES = {  # method -> its column
    "one-cycle:phases.shrink=0": "no shrink",
    "one-cycle:compensate=true": "compensated",
    "one-cycle:phases.shrink=0:compensate=true": "compensated, no shrink",
    "one-cycle:phases.shrink=0:compensate=true:criterion=reconstruction": "by reconstruction, no shrink",
    "one-cycle:cost_factor=false": "no cost factor",
    "one-cycle:phases.sparsity_end=0.6:phases.patience=0.1": "later deadline",
    "gradual": "gradual",
    "one-cycle:train.distill.weight=0.5": "taught",
    "one-cycle:train.distill.weight=0.5:train.ema=0.98": "taught by the average",
}
_FIXED = ("fixed", "at-init")
_MOMENTS = tuple(f"fixed:at={at}" for at in (0.1, 0.2, 0.35, 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="*", default=[], choices=_SETTINGS)
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2", "3", "4"])
    parser.add_argument("--methods", nargs="+", default=[_OURS, *_BASELINES, *_CHANGES, *_MOMENTS])
    arguments = parser.parse_args()
    for name in arguments.settings:
        _compare(name, arguments.methods, arguments.seeds)
    for make in TABLES.values():
        print(make(RESULTS) + "\n")


def _compare(name: str, methods: Sequence[str], seeds: Sequence[str]) -> None:
    setting, output = _SETTINGS[name], _RUNS / "one-cycle" / name
    if setting.recipe == "turned-pretrained" and not (_RUNS / _PRETRAINING / "model").is_dir():
        _icycle("run", _path(_PRETRAINING), "--output", str(_RUNS / _PRETRAINING))
    changes = [word for override in setting.overrides for word in ("--set", override)]
    columns = ("--methods", ",".join(methods), "--seeds", ",".join(seeds), "--against", _OURS)
    _icycle("compare", _path(setting.recipe), *columns, "--output", str(output), "--no-pictures", *changes)
    shutil.copy(output / "results.json", RESULTS / f"compare_{name}.json")


def _path(recipe: str) -> str:
    own = _BENCH / "recipes" / f"{recipe}.yaml"
    return str(own) if own.is_file() else recipe


def _icycle(*arguments: str) -> None:
    paths = os.pathsep.join(filter(None, (str(_BENCH), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}  # where the recipes' own module lies
    subprocess.run([sys.executable, "-m", "icycle", *arguments], env=environment, check=True)


def against_scratch(results: Path) -> str:
    """A row for each setting: how far one-cycle is above each baseline."""
    rows = []
    for words, accuracies in _measured(results):
        differences = [_above(accuracies, _OURS, label) for label in _BASELINES]
        rows.append((words, len(accuracies[_OURS]), *map(_difference, differences)))
    return table(("one-cycle above", "seeds", *_BASELINES.values()), rows)


def moments(results: Path) -> str:
    """A row for each setting, and the mean over them: one-cycle above the best of the fixed moments.

    The best of some moments is favoured by chance where it is chosen by the very runs that it is compared in. So of
    every seed the moment counts, too, that is best in the mean over the other seeds.
    """
    rows, behind, ahead = [], [], []
    for words, accuracies in _measured(results):
        fixed = [label for label in accuracies if label.startswith(_FIXED)]
        seeds = list(accuracies[_OURS])
        if len(fixed) < 2 or len(seeds) < 2:
            continue
        best = _best(accuracies, fixed, seeds)
        by_all = _above(accuracies, _OURS, best)
        by_others = [
            accuracies[_OURS][seed] - accuracies[_best(accuracies, fixed, [s for s in seeds if s != seed])][seed]
            for seed in seeds
        ]
        behind.append(statistics.fmean(by_all))
        ahead.append(statistics.fmean(by_others))
        rows.append((words, len(seeds), len(fixed), best, _difference(by_all), _difference(by_others)))
    rows.append(("mean of the settings", "", "", "", _difference(behind), _difference(ahead)))
    return table(("setting", "seeds", "moments", "best of all", "above it", "above the best of the other seeds"), rows)


def parts(results: Path) -> str:
    """A row for each setting: how far each change of one-cycle, or method beside it, is above one-cycle."""
    rows = []
    for words, accuracies in _measured(results):
        differences = [_above(accuracies, label, _OURS) for label in _CHANGES]
        if any(differences):
            rows.append((words, *map(_difference, differences)))
    return table(("above one-cycle", *_CHANGES.values()), rows)


TABLES: Mapping[str, Callable[[Path], str]] = {
    "one_cycle_against": against_scratch,
    "one_cycle_moments": moments,
    "one_cycle_parts": parts,
}


def _measured(results: Path) -> list[tuple[str, Accuracies]]:
    """What the settings are, and the accuracies in those that have been run."""
    paths = {setting.words: results / f"compare_{name}.json" for name, setting in _SETTINGS.items()}
    return [(words, _accuracies(path)) for words, path in paths.items() if path.is_file()]


def _accuracies(path: Path) -> Accuracies:
    found: dict[str, dict[int, float]] = {}
    for outcome in kept_results(path).outcomes:
        if isinstance(outcome, Result):
            label = outcome.label.replace(f":of={_OURS}", "")  # which is the default, where one-cycle comes first
            found.setdefault(label, {})[outcome.seed] = outcome.test_accuracy
    return found


def _above(accuracies: Accuracies, label: str, other: str) -> list[float]:
    """By how much one is above another, for every seed that both have."""
    ours, theirs = accuracies.get(label, {}), accuracies.get(other, {})
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def _best(accuracies: Accuracies, fixed: Sequence[str], seeds: Sequence[int]) -> str:
    """The fixed moment with the best mean over these seeds."""
    return max(fixed, key=lambda label: statistics.fmean(accuracies[label][seed] for seed in seeds))


def _difference(values: Sequence[float]) -> str:
    half = interval(values)
    return "-" if half is None else f"{statistics.fmean(values):+.2f} ± {half:.2f}"


if __name__ == "__main__":
    main()
