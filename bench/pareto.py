"""What fits between a trained network and a pruned one: accuracy over seconds, for methods, epochs and kept MACs.

    python bench/pareto.py

VGG-16 of width 16 or ResNet-56 of width 8 is trained to its plateau on 2,000 images of Fashion-MNIST, 300 of them for
validation, once per seed; every method starts from these weights and removes the same number of channels of every
group. All trained epochs count, those of steps as well; `trained` is their mean, as a method may end early. Accuracy is
read on the same quarter of the test images each time, when all is decided.

    one-shot     everything at once, then all epochs, at a rate that runs to zero
    ice          as one-shot, but it ends before it begins, after a quarter or after half of the epochs, where it is
                 within a point of the dense network's accuracy on the validation images
    frozen       as one-shot, but the first half of the layers does not train
    taught       as one-shot, but half of the loss is the distance to what the dense network makes of the same images
    iterative    step by step, the epochs in equal parts after every step, at a constant rate
    scratch      the same shape, fresh weights, as many epochs of the dense network's training

`-`: channels chosen by their norm; `+`: and compensation at every removal; `*`: that, and channels chosen by what
it cannot make up for (the criterion `reconstruction`). Seconds are those of the CPU, on one thread: a run has
nothing to wait for, and what else the machine does then counts little. They run from the trained network to the pruned
one; reading the data and the test images do not count.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import RESULTS, Record, Results, by_setting, command, machine, mean_and_deviation, provenance, table
from _start import context_of, test_batches, trained

from icycle.compare import interval
from icycle.engine import trace
from icycle.methods import Curve, IceMethod, Iterative, Method, OneShot, Uniform
from icycle.recipes import Recipe, load_recipe
from icycle.training import evaluate

_STEPWISE = ("one-shot-", "one-shot+", "one-shot*", "ice-", "ice+", "ice*", "iterative-", "iterative*")
METHODS = (*_STEPWISE, "frozen*", "taught*", "scratch")

_REFERENCES = ("one-shot*", "one-shot-")
_WIDTHS = {"vgg16-bn": 16, "resnet56": 8}
_RATES = {"vgg16-bn": 0.02, "resnet56": 0.01}  # swept on a seed that is in no table
TEST_SHARE = 0.25
_FEWEST = {"iterative": 1, "scratch": 1}  # epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(_WIDTHS), choices=list(_WIDTHS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--epochs", nargs="+", type=int, default=[0, 1, 4])
    parser.add_argument("--kept", nargs="+", type=float, default=[0.5, 0.25, 0.12], help="shares of the MACs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rate", type=float, help="where one-shot's and ICE's final epochs begin")
    parser.add_argument("--iterative-rate", type=float, default=0.005)
    parser.add_argument("--dense-epochs", type=int, default=40)
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "pareto.jsonl", help="JSON lines; finished runs are skipped"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-start"), help="where trained networks are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(tables(run_all(arguments)))


def run_all(arguments: argparse.Namespace) -> list[Record]:
    """Run what is not in `arguments.out` yet; the records of what was asked for."""
    results, found = Results(arguments.out), []
    asked = (arguments.networks, arguments.kept, arguments.seeds, arguments.epochs, arguments.methods)
    for network, kept, seed, epochs, name in itertools.product(*asked):
        kind = name.rstrip("+-*")
        if epochs < _FEWEST.get(kind, 0):
            continue
        ours = arguments.rate or _RATES[network]
        rate = {"iterative": arguments.iterative_rate, "scratch": 0.1}.get(kind, ours)
        key = {
            "network": network, "method": name, "kept": kept, "epochs": epochs, "seed": seed, "rate": rate,
            "dense": arguments.dense_epochs,
        }  # fmt: skip
        record = results.find(**key)
        if record is None:
            method = _method(network, name, kept, epochs, rate)
            dense = trained(recipe_of(network, arguments.dense_epochs), seed, arguments.cache, TEST_SHARE)
            trains = epochs if name == "scratch" else arguments.dense_epochs
            recipe = recipe_of(network, trains, taught=name == "taught*")
            record = {"version": 1, **key, **measured(recipe, method, seed, dense), "command": command()}
            results.append(record)
            print(f"{network}, {name}, {kept:g}, {epochs} epochs, seed {seed}: {record['test']:.2f} %", flush=True)
        found.append(record)
    return found


def recipe_of(network: str, epochs: int, *, taught: bool = False, augment: bool = True) -> Recipe:
    """Data, network and how it is trained, for so many epochs."""
    setting: dict[str, Any] = {
        "model.name": network, "model.width": _WIDTHS[network], "data.subset": 2000, "data.validation": 0.15,
        "data.augment": augment, "train.epochs": epochs,
    }  # fmt: skip
    if taught:
        setting["train.distill.weight"] = 0.5
    return load_recipe("fashion-ice-vgg", [f"{key}={value}" for key, value in setting.items()])


def _method(network: str, name: str, kept: float, epochs: int, rate: float) -> Method:
    budget = {"macs": kept}
    if name == "scratch":
        return Uniform(budget=budget)
    kind, criterion = name[:-1], "reconstruction" if name[-1] == "*" else "group_norm"
    shared = {"budget": budget, "limit": 0.95, "compensate": name[-1] != "-", "criterion": criterion}
    final = {"curve": Curve(base=rate / 2, delta=0.0), "final_epochs": epochs}
    if kind in ("one-shot", "taught"):
        return OneShot(**shared, **final)
    if kind == "frozen":
        return IceMethod(**shared, **final, steps="all", freeze=0.5, drop=None)
    if kind == "ice":
        return IceMethod(**shared, **final)
    return Iterative(**shared, steps="group", curve=Curve(base=rate, delta=0.0), epochs=epochs / _steps(network))


@lru_cache
def _steps(network: str) -> int:
    """How many there are, with one for each group."""
    context = context_of(recipe_of(network, 1), 0)
    return len(trace(context.model, context.example_inputs, proof="shapes").prunable)


def measured(recipe: Recipe, method: Method, seed: int, dense: Path) -> dict[str, Any]:
    context = context_of(recipe, seed, weights=dense if method.starts_trained else None)
    macs = trace(context.model, context.example_inputs).macs()
    start = time.process_time()
    result = method.run(context)
    seconds = time.process_time() - start
    return {
        "seconds": seconds,
        "details": dict(result.details),
        "validation": result.validation_accuracy,
        "after_removal": [removal.accuracy_after for removal in result.removals],
        "test": evaluate(context.model, test_batches(context, TEST_SHARE)),
        "macs": trace(context.model, context.example_inputs).macs() / macs,
        "machine": machine(),
    }


# What is shown


def tables(records: Sequence[Record]) -> str:
    """A table for each network and share of the MACs, and where they come from."""
    shown = []
    for group in by_setting(records, ["network", "kept"]):
        shown.append(f"{group[0]['network']}, {group[0]['kept']:.0%} of the MACs\n\n{_table(group)}")
    return "\n\n".join([*shown, provenance(records)])


def _table(records: Sequence[Record]) -> str:
    """Accuracy and seconds of each method by its epochs, and the difference from the references in the same seconds."""
    against = [f"against {name}, equal seconds" for name in _REFERENCES]
    columns = ("method", "epochs", "rate", "runs", "trained", "seconds", "test accuracy", *against)
    rows = []
    for runs in by_setting(records, ["method", "rate", "epochs"]):
        rows.append(
            (
                runs[0]["method"],
                runs[0]["epochs"],
                f"{runs[0]['rate']:g}",
                len(runs),
                f"{statistics.fmean(run['details'].get('epochs of fine-tuning', run['epochs']) for run in runs):.1f}",
                mean_and_deviation([run["seconds"] for run in runs]),
                mean_and_deviation([run["test"] for run in runs]),
                *(_with_interval(_above(records, runs, reference)) for reference in _REFERENCES),
            )
        )
    return table(columns, sorted(rows, key=lambda row: (METHODS.index(row[0]), row[1], float(row[2]))))


def _above(records: Sequence[Record], runs: Sequence[Record], reference: str) -> list[float]:
    """By how much each of the runs is above the reference with its seed after as many seconds."""
    return [run["test"] - at for run in runs if (at := _in_the_time(records, run, reference)) is not None]


def _in_the_time(records: Sequence[Record], run: Record, reference: str) -> float | None:
    """What the reference has with this run's seed after as many seconds: between its runs on a straight line over
    the logarithm of the seconds, and beyond them as the first or the last of them."""
    wanted = (reference, _RATES[run["network"]], run["seed"])
    runs = [each for each in records if (each["method"], each["rate"], each["seed"]) == wanted]
    if not runs:
        return None
    points = sorted((math.log(each["seconds"]), each["test"]) for each in runs)
    return float(np.interp(math.log(run["seconds"]), [x for x, _ in points], [y for _, y in points]))


def _with_interval(differences: Sequence[float]) -> str:
    """Mean and half the width of the 95 % interval."""
    if len(differences) < 2:
        return "-" if not differences else f"{differences[0]:+.2f}"
    return f"{statistics.fmean(differences):+.2f} ± {interval(differences):.2f}"


if __name__ == "__main__":
    main()
