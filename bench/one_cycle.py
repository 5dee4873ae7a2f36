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
from icycle.recipes import load_recipe

__all__ = ["TABLES"]

Runs = Mapping[str, Mapping[int, Result]]  # method -> seed -> what came of it

_BENCH = Path(__file__).parent
_RUNS = Path("runs")  # where turned-pretrained.yaml looks for the weights that it starts from
_PRETRAINING = "turned-pretraining"


@dataclass(frozen=True)
class Setting:
    """A recipe, of icycle or in bench/recipes, with other values; `words` say in a table what it is, and `methods` are
    tried here beside those that are tried everywhere.

    `in_seconds` is training from scratch for at least one-cycle's seconds; in so many epochs where those are told by no
    run, since one-cycle has a teacher.
    """

    words: str
    recipe: str
    overrides: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    in_seconds: str = "scratch:equal=seconds"


_DENSE = "dense"
_OURS = "one-cycle"
_TAUGHT = "one-cycle:train.distill.weight=0.5:train.ema=0.98"
_UNTAUGHT = "one-cycle:train.distill=null:train.ema=null"
_EARLY = "one-cycle:phases.sparsity_end=0.12"
_NO_SHRINK = "one-cycle:phases.shrink=0"
_NO_COST_FACTOR = "one-cycle:cost_factor=false"
_BY_THE_MANNER = (  # of the removal
    f"{_NO_SHRINK}:compensate=true",
    f"{_NO_SHRINK}:compensate=true:criterion=reconstruction",
)
_MORE_MOMENTS = tuple(f"fixed:at={at}:shrink=8" for at in (0.05, 0.15, 0.25))
_OTHERWISE = {  # to lose channels within as many epochs; method -> its column
    **{f"fixed:at={at}": f"at {at:.0%}, no shrink" for at in (0.05, 0.1, 0.15, 0.25, 0.35)},
    "gradual": "gradual",
    "one-shot:train.epochs=8": "8 epochs, one-shot, 4 epochs",
}
_MORE_SECONDS = "scratch:train.epochs=52"  # than one-cycle takes with its teacher
_DIGITS = ("imports=[clothes]", "model.width=16", "method.budget.macs=0.25", "method.round_to=4", "train.epochs=10")
_SETTINGS = {
    "digits_10": Setting("small-cnn, digits, 10 epochs, 25 %", "digits", _DIGITS, (_TAUGHT,)),
    "digits_wide": Setting(  # where half of the MACs are half of the time, and the dense network is at its plateau
        "small-cnn, width 128, digits, 50 %, by 10 %",
        "digits",
        (
            "imports=[clothes]",
            "model.width=128",
            "method.round_to=16",
            "method.cost_factor=false",
            "method.phases.sparsity_end=0.1",
        ),
    ),
    "clothes_resnet": Setting(
        "ResNet-8, 10 classes, 25 %", "clothes-resnet", (), (_TAUGHT, *_MORE_MOMENTS, *_OTHERWISE)
    ),
    "clothes_all": Setting(
        "ResNet-8, 60,000 images, 25 %",
        "clothes-resnet",
        ("data.subset=null", "data.validation=0.02", "train.epochs=4"),
    ),
    "clothes_vgg": Setting("VGG-16, 10 classes, 25 %", "clothes-vgg", (), (_TAUGHT, *_MORE_MOMENTS, *_OTHERWISE)),
    "clothes_vgg_all": Setting(
        "VGG-16, 60,000 images, 25 %", "clothes-vgg", ("data.subset=null", "data.validation=0.02", "train.epochs=4")
    ),
    "clothes_vgg_50": Setting("VGG-16, 10 classes, 50 %", "clothes-vgg", ("method.budget.macs=0.5",)),
    "clothes_wide_50": Setting(  # where half of the MACs are half of the time
        "VGG-16, width 32, 50 %",
        "clothes-vgg",
        ("model.width=32", "method.budget.macs=0.5", "method.round_to=16"),
        (_EARLY,),
    ),
    "clothes_wide_long": Setting(  # and an early removal is not too early
        "VGG-16, width 32, 50 %, 24 epochs, by 15 %",
        "clothes-vgg",
        (
            "model.width=32",
            "method.budget.macs=0.5",
            "method.round_to=16",
            "method.cost_factor=false",
            "method.phases.sparsity_end=0.15",
            "train.epochs=24",
        ),
    ),
    "turned_50": Setting(
        "ResNet-8, 40 classes, 50 %", "turned-resnet", ("method.budget.macs=0.5",), (_UNTAUGHT,), _MORE_SECONDS
    ),
    "turned_25": Setting("ResNet-8, 40 classes, 25 %", "turned-resnet", (), (_UNTAUGHT,), _MORE_SECONDS),
    "turned_12": Setting(
        "ResNet-8, 40 classes, 12 %",
        "turned-resnet",
        ("method.budget.macs=0.12", "method.limit=0.9"),
        (_UNTAUGHT, *_BY_THE_MANNER),
        _MORE_SECONDS,
    ),
    "pretrained_50": Setting(
        "ResNet-8, pretrained, 50 %", "turned-pretrained", (), ("at-init:compensate=true", _TAUGHT, _BY_THE_MANNER[0])
    ),
    "pretrained_25": Setting(
        "ResNet-8, pretrained, 25 %",
        "turned-pretrained",
        ("method.budget.macs=0.25",),
        ("at-init:compensate=true", _TAUGHT, _BY_THE_MANNER[0]),
    ),
}
_BASELINES = {  # method -> its column
    _DENSE: "dense",
    "scratch": "scratch, epochs",
    "uniform": "uniform",
    "at-init": "at-init",
    "at-init:compensate=true": "at-init, compensated",
}
_CHANGES = {  # method -> its column
    _NO_SHRINK: "no shrink",
    _NO_COST_FACTOR: "no cost factor",
    _BY_THE_MANNER[0]: "compensated, no shrink",
    _BY_THE_MANNER[1]: "by reconstruction, no shrink",
    _TAUGHT: "taught by the average",
    _UNTAUGHT: "untaught",
}
_MOMENTS = ("at-init", *(f"fixed:at={at}:shrink=8" for at in (0.1, 0.2, 0.35, 0.5)))  # tried everywhere
_EVERYWHERE = (_OURS, _DENSE, "scratch", "uniform", *_MOMENTS, _NO_SHRINK, _NO_COST_FACTOR)
_LONGER = f"{_DENSE}:train.epochs="  # the dense network, half as long again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="*", default=[], choices=_SETTINGS)
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2", "3", "4"])
    parser.add_argument("--methods", nargs="+", help="others than those that a setting is there for")
    arguments = parser.parse_args()
    for name in arguments.settings:
        _compare(name, arguments.methods, arguments.seeds)
    for make in TABLES.values():
        print(make(RESULTS) + "\n")


def _compare(name: str, methods: Sequence[str] | None, seeds: Sequence[str]) -> None:
    setting, output = _SETTINGS[name], _RUNS / "one-cycle" / name
    methods = methods or (*_EVERYWHERE, *setting.methods, setting.in_seconds, _longer(setting))
    if setting.recipe == "turned-pretrained" and not (_RUNS / _PRETRAINING / "model").is_dir():
        _icycle("run", _path(_PRETRAINING), "--output", str(_RUNS / _PRETRAINING))
    changes = [word for override in setting.overrides for word in ("--set", override)]
    columns = ("--methods", ",".join(methods), "--seeds", ",".join(seeds), "--against", _OURS)
    _icycle("compare", _path(setting.recipe), *columns, "--output", str(output), "--no-pictures", *changes)
    shutil.copy(output / "results.json", RESULTS / f"compare_{name}.json")


def _longer(setting: Setting) -> str:
    epochs = load_recipe(_path(setting.recipe), setting.overrides).train.epochs
    return f"{_LONGER}{round(1.5 * epochs)}"


def _path(recipe: str) -> str:
    own = _BENCH / "recipes" / f"{recipe}.yaml"
    return os.path.relpath(own) if own.is_file() else recipe


def _icycle(*arguments: str) -> None:
    paths = os.pathsep.join(filter(None, (str(_BENCH), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}  # where the recipes' own module lies
    subprocess.run([sys.executable, "-m", "icycle", *arguments], env=environment, check=True)


def against_scratch(results: Path) -> str:
    """A row for each setting: how far one-cycle is above each baseline, how much more is to be had of the dense network
    in half as many epochs again, and one-cycle's seconds; and what was run."""
    rows = []
    for setting, runs in _measured(results):
        differences = [_above(runs, _OURS, label) for label in (*_BASELINES, setting.in_seconds)]
        longer = next((label for label in runs if label.startswith(_LONGER)), "")
        differences.append(_above(runs, longer, _DENSE))
        seconds = [runs[_OURS][seed].seconds / run.seconds for seed, run in runs[_DENSE].items()]
        rows.append(
            (setting.words, len(runs[_OURS]), *map(_difference, differences), f"{statistics.median(seconds):.2f}")
        )
    columns = (*_BASELINES.values(), "scratch, seconds", "dense, longer, above dense", "seconds / dense")
    return f"{table(('one-cycle above', 'seeds', *columns), rows)}\n\n{_provenance(results)}"


def moments(results: Path) -> str:
    """A row for each setting, and the mean over them: when one-cycle removes, and how far it is above the best of the
    fixed moments.

    The best of some moments is favoured by chance where it is chosen by the very runs that it is compared in. So of
    every seed the moment counts, too, that is best in the mean over the other seeds.
    """
    rows, behind, ahead = [], [], []
    for setting, runs in _measured(results):
        fixed = [label for label in runs if label in (*_MOMENTS, *_MORE_MOMENTS)]
        ours = runs[_OURS]
        if len(fixed) < 2:
            continue
        best = _best(runs, fixed, list(ours))
        by_all = _above(runs, _OURS, best)
        by_others = [
            run.test_accuracy - runs[_best(runs, fixed, [s for s in ours if s != seed])][seed].test_accuracy
            for seed, run in ours.items()
        ]
        behind.append(statistics.fmean(by_all))
        ahead.append(statistics.fmean(by_others))
        removed = statistics.fmean((run.removal_epoch or 0.0) / run.epochs for run in ours.values())
        cells = (f"{removed:.0%}", len(ours), len(fixed), best, _difference(by_all), _difference(by_others))
        rows.append((setting.words, *cells))
    rows.append(("mean of the settings", "", "", "", "", _difference(behind), _difference(ahead)))
    columns = ("removed at", "seeds", "moments", "best of all", "above it", "above the best of the other seeds")
    return table(("setting", *columns), rows)


def parts(results: Path) -> str:
    """A row for each setting, and the mean over them: how far each change of one-cycle is above one-cycle."""
    rows, means = [], [[] for _ in _CHANGES]
    for setting, runs in _measured(results):
        differences = [_above(runs, label, _OURS) for label in _CHANGES]
        if any(len(pairs) > 1 for pairs in differences):
            rows.append((setting.words, *map(_difference, differences)))
            for mean, pairs in zip(means, differences, strict=True):
                mean += [statistics.fmean(pairs)] if pairs else []
    rows.append(("mean of the settings", *map(_difference, means)))
    return table(("above one-cycle", *_CHANGES.values()), rows)


def otherwise(results: Path) -> str:
    """A row for each setting in which they were tried: how far one-cycle is above other ways to lose as many channels
    within as many epochs."""
    rows = []
    for setting, runs in _measured(results):
        differences = [_above(runs, _OURS, label) for label in _OTHERWISE]
        if any(differences):
            rows.append((setting.words, *map(_difference, differences)))
    return table(("one-cycle above", *_OTHERWISE.values()), rows)


TABLES: Mapping[str, Callable[[Path], str]] = {
    "one_cycle_against": against_scratch,
    "one_cycle_moments": moments,
    "one_cycle_parts": parts,
    "one_cycle_otherwise": otherwise,
}


def _files(results: Path) -> list[tuple[str, Path]]:
    """The names of the settings that have been run, and where their results are."""
    paths = [(name, results / f"compare_{name}.json") for name in _SETTINGS]
    return [(name, path) for name, path in paths if path.is_file()]


def _measured(results: Path) -> list[tuple[Setting, Runs]]:
    return [(_SETTINGS[name], _runs(path)) for name, path in _files(results)]


def _runs(path: Path) -> Runs:
    found: dict[str, dict[int, Result]] = {}
    for outcome in kept_results(path).outcomes:
        if isinstance(outcome, Result):
            label = outcome.label.replace(f":of={_OURS}", "")  # which is the default, where one-cycle comes first
            found.setdefault(label, {})[outcome.seed] = outcome
    return found


def _provenance(results: Path) -> str:
    names, paths = zip(*_files(results), strict=True)
    kept = [kept_results(path) for path in paths]
    runs = sum(isinstance(outcome, Result) for each in kept for outcome in each.outcomes)
    places = dict.fromkeys(place for each in kept for place in each.environments)
    return f"{runs} runs of `python bench/one_cycle.py --settings {' '.join(names)}`, on {'; '.join(places)}."


def _above(runs: Runs, label: str, other: str) -> list[float]:
    """By how many points one is above another, for every seed that both have."""
    ours, theirs = runs.get(label, {}), runs.get(other, {})
    return [ours[seed].test_accuracy - theirs[seed].test_accuracy for seed in ours if seed in theirs]


def _best(runs: Runs, fixed: Sequence[str], seeds: Sequence[int]) -> str:
    """The fixed moment with the best mean over these seeds."""
    return max(fixed, key=lambda label: statistics.fmean(runs[label][seed].test_accuracy for seed in seeds))


def _difference(values: Sequence[float]) -> str:
    half = interval(values)
    return "-" if half is None else f"{statistics.fmean(values):+.2f} ± {half:.2f}"


if __name__ == "__main__":
    main()
