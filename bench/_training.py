"""Whole training runs, timed and compared: what one_cycle.py and digits.py have in common."""

from __future__ import annotations

import argparse
import importlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _common import (
    Record,
    Results,
    by_setting,
    command,
    in_fresh_process,
    machine,
    mean_and_deviation,
    provenance,
    table,
)
from _incumbent import TrainPruneFineTune

from icycle.engine import trace
from icycle.methods import Context, Dense, Method, OneCycleMethod
from icycle.recipes import Recipe, load_recipe
from icycle.report import compare_latency
from icycle.training import STAGES, Recorder, evaluate, run_device
from icycle.zoo import Data, build_model, load_data

__all__ = ["METHODS", "add_arguments", "run_all", "tables"]

METHODS = ("dense", "one-cycle", "train-prune-fine-tune")
_LATENCY_BATCHES = (1, 64)

# Records with these values in common go into one table.
_TOGETHER = ("recipe", "machine")


def add_arguments(parser: argparse.ArgumentParser, out: Path, methods: Sequence[str]) -> None:
    """The options of every benchmark of training runs."""
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(methods))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--model", help="a name that icycle's zoo knows (default: the recipe's)")
    parser.add_argument("--width", type=int, help="channels of the model's first stage (default: the recipe's)")
    parser.add_argument("--epochs", type=int, help="of the whole run, whatever the method (default: the recipe's)")
    parser.add_argument("--subset", type=int, help="training images, validation included (default: the recipe's)")
    parser.add_argument("--set", nargs="+", default=[], metavar="A.B=C", help="other values of the recipe")
    parser.add_argument("--out", type=Path, default=out, help="JSON lines; runs that are there already are skipped")


def run_all(recipe_name: str, arguments: argparse.Namespace) -> str:
    """Run what is not in `arguments.out` yet, each run in its own process; the table of what was asked for.

    Methods take turns within a seed, so that a machine that changes its pace meets them alike.
    """
    results = Results(arguments.out)
    recipe = _recipe(recipe_name, arguments)
    methods = [_method(name, recipe) for name in arguments.methods]
    wanted: list[Record] = []
    for seed in arguments.seeds:
        for method in methods:
            key = {"recipe": _common_part(recipe), "method": method.model_dump(mode="json"), "seed": seed}
            record = results.find(**key)
            if record is None:
                print(f"{method.name}, seed {seed} ...", flush=True)
                record = {"version": 1, **key, **in_fresh_process(_run, recipe, method, seed), "command": command()}
                results.append(record)
            print(_one_line(record), flush=True)
            wanted.append(record)
    return tables(wanted)


def _recipe(name: str, arguments: argparse.Namespace) -> Recipe:
    given = {
        "model.name": arguments.model,
        "model.width": arguments.width,
        "train.epochs": arguments.epochs,
        "data.subset": arguments.subset,
    }
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    return load_recipe(name, [*overrides, *arguments.set])


def _method(name: str, recipe: Recipe) -> Method:
    """The method to compare, with the budget, rounding and limit of the recipe's one-cycle."""
    one_cycle = recipe.method
    assert isinstance(one_cycle, OneCycleMethod)
    if name == "dense":
        return Dense()
    if name == "one-cycle":
        return one_cycle
    macs = one_cycle.budget.macs
    assert macs is not None
    incumbent = TrainPruneFineTune(
        macs=macs,
        round_to=one_cycle.round_to,
        limit=one_cycle.limit,
        calibration_batches=one_cycle.calibration_batches,
    )
    incumbent.split(recipe.train.epochs)  # raises now, not after hours, where the epochs are too few
    return incumbent


def _common_part(recipe: Recipe) -> dict[str, Any]:
    """All of the recipe that the methods share."""
    return recipe.model_dump(mode="json", exclude={"method", "seed"})


# One run


def _run(recipe: Recipe, method: Method, seed: int) -> dict[str, Any]:
    """Train and prune as `icycle run` does, without its files; the clock runs from the built model to the last epoch's
    validation. Reading the data, the test set and the latencies come before and after."""
    importlib.import_module("torch._dynamo")  # the first optimizer would, for a second or more
    torch.manual_seed(seed)
    data = load_data(**recipe.data.model_dump(), batch_size=recipe.train.batch_size, seed=seed, device=run_device())
    model = _build(recipe, data)
    recorder = Recorder(listeners=[_show])
    result = method.run(Context(model, data, recipe.train, recorder, seed=seed))
    seconds = recorder.clock.seconds()
    removal = result.removals[-1] if result.removals else None
    return {
        "seconds": seconds,
        "wall": sum(seconds.values()),
        "epochs": [record["seconds"] for record in recorder.records if record["kind"] == "epoch"],
        "searches": sum(record["kind"] == "search" for record in recorder.records),
        "removal": asdict(removal) if removal else None,
        "macs": trace(model, data.example()).macs(),
        "macs_kept": removal.macs_after / removal.macs_before if removal else 1.0,
        "validation_accuracy": result.validation_accuracy,
        "test_accuracy": evaluate(model, data.test.open()),
        "latency": _latency(recipe, data, model) if removal else None,
        "machine": machine(),
    }


def _build(recipe: Recipe, data: Data) -> torch.nn.Module:
    built = build_model(
        recipe.model.name, num_classes=data.classes, in_channels=data.shape[0], width=recipe.model.width
    )
    return built.to(run_device())


def _latency(recipe: Recipe, data: Data, pruned: torch.nn.Module) -> dict[str, dict[str, float]]:
    """Median milliseconds per batch in float32, dense and pruned side by side."""
    layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    networks = [network.to(memory_format=layout) for network in (_build(recipe, data), pruned)]
    found = {}
    for size in _LATENCY_BATCHES:
        inputs = data.example().expand(size, -1, -1, -1).contiguous(memory_format=layout)
        dense, small = compare_latency(networks, inputs)
        found[str(size)] = {"dense": dense.median, "pruned": small.median}
    return found


def _show(record: Mapping[str, Any]) -> None:
    if record["kind"] == "epoch":
        print(
            f"  epoch {record['epoch']}: {sum(record['seconds'].values()):.1f} s, "
            f"validation {record['validation_accuracy']:.2f}",
            flush=True,
        )
    elif record["kind"] == "removal":
        print(
            f"  removal after {record['epoch']:.2f} epochs: "
            f"{record['accuracy_before']:.2f} -> {record['accuracy_after']:.2f}",
            flush=True,
        )


def _one_line(record: Record) -> str:
    return (
        f"{record['method']['name']}, seed {record['seed']}: {record['wall']:.1f} s, "
        f"test accuracy {record['test_accuracy']:.2f}, {record['macs_kept']:.1%} of the MACs"
    )


# Tables


def tables(records: Sequence[Record]) -> str:
    """Markdown: for each recipe and machine, time and results by method, mean ± deviation over the seeds."""
    return "\n\n".join(_table(group) for group in by_setting(_latest(records), _TOGETHER))


def _latest(records: Sequence[Record]) -> list[Record]:
    """One record per recipe, method, seed and machine: the last."""
    return [group[-1] for group in by_setting(records, (*_TOGETHER, "method", "seed"))]


def _table(records: list[Record]) -> str:
    runs = by_setting(records, ("method",))
    return "\n\n".join(
        (
            _heading(records[0]),
            table(
                ("seconds", "runs", "whole run", "/ dense", *STAGES),
                [_time_row(group, records) for group in runs],
            ),
            table(
                (
                    "",
                    "test accuracy",
                    "- dense",
                    "MACs kept",
                    "removal at epoch",
                    "validation before, as it is",
                    "after, recalibrated",
                    *(f"latency {size}: dense, pruned (ms)" for size in _LATENCY_BATCHES),
                ),
                [_result_row(group, records) for group in runs],
            ),
            provenance(records),
        )
    )


def _heading(record: Record) -> str:
    recipe = record["recipe"]
    data, model, train = recipe["data"], recipe["model"], recipe["train"]
    width = "" if model["width"] is None else f" of width {model['width']}"
    images = "all" if data["subset"] is None else f"{data['subset']:,}"
    precision = "float32" if train["precision"] == "no" else train["precision"]
    return (
        f"**{model['name']}{width} on {data['name']}**: {images} training images ({data['validation']:.0%} of them for "
        f"validation), {train['epochs']} epochs, batch {train['batch_size']}, {precision}, "
        f"{'channels-last' if train['channels_last'] else 'channels-first'}."
    )


def _time_row(group: list[Record], records: list[Record]) -> list[str]:
    ratios = _against_dense(group, records, lambda run, dense: run["wall"] / dense["wall"])
    stages = (statistics.fmean(record["seconds"][stage] for record in group) for stage in STAGES)
    whole = mean_and_deviation([record["wall"] for record in group], ".1f")
    return [_label(group), str(len(group)), whole, mean_and_deviation(ratios, ".3f"), *(f"{s:.1f}" for s in stages)]


def _result_row(group: list[Record], records: list[Record]) -> list[str]:
    differences = _against_dense(group, records, lambda run, dense: run["test_accuracy"] - dense["test_accuracy"])
    removals = [record["removal"] for record in group if record["removal"]]
    return [
        _label(group),
        mean_and_deviation([record["test_accuracy"] for record in group]),
        mean_and_deviation(differences, "+.2f").replace("± +", "± "),
        mean_and_deviation([100 * record["macs_kept"] for record in group], ".1f") + " %",
        *(
            mean_and_deviation([removal[key] for removal in removals])
            for key in ("epoch", "accuracy_before", "accuracy_after")
        ),
        *(_latency_cell(group, str(size)) for size in _LATENCY_BATCHES),
    ]


def _latency_cell(group: list[Record], size: str) -> str:
    measured = [record["latency"][size] for record in group if record["latency"]]
    if not measured:
        return "-"
    dense, pruned = (statistics.fmean(pair[kind] for pair in measured) for kind in ("dense", "pruned"))
    return f"{dense:.2f}, {pruned:.2f}"


def _against_dense(
    group: list[Record], records: list[Record], compare: Callable[[Record, Record], float]
) -> list[float]:
    """Each run compared with the dense run of its seed."""
    dense = {record["seed"]: record for record in records if record["method"]["name"] == "dense"}
    return [compare(record, dense[record["seed"]]) for record in group if record["seed"] in dense]


def _label(group: list[Record]) -> str:
    method = group[0]["method"]
    kept = method.get("macs") or (method.get("budget") or {}).get("macs")
    return method["name"] + (f", macs {kept}" if kept else "")
