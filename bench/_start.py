"""Where benchmarks of methods for trained networks begin: a recipe's network, trained once per seed and kept."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from _common import Record, Results, command, machine
from safetensors.torch import load_file, save_file

from icycle.methods import Context, Dense
from icycle.recipes import Recipe
from icycle.training import Recorder, evaluate
from icycle.zoo import build_model, load_data

__all__ = ["add_arguments", "context_of", "measure_all", "test_batches", "trained"]

Measure = Callable[[str, int, argparse.Namespace], dict[str, Any]]  # of a network and a seed


def add_arguments(parser: argparse.ArgumentParser, networks: Iterable[str], cost: str, out: Path) -> None:
    """The options of a benchmark that takes a share of a cost from each of its networks."""
    parser.add_argument("--networks", nargs="+", default=list(networks), choices=list(networks))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--kept", type=float, default=0.5, help=f"share of the {cost}")
    parser.add_argument("--out", type=Path, default=out, help="JSON lines; what is there already is not measured again")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-start"), help="where trained networks are kept")


def measure_all(arguments: argparse.Namespace, measure: Measure) -> list[Record]:
    """The records of what was asked for; what is not in `arguments.out` yet is measured, on one thread."""
    torch.set_num_threads(1)
    results, found = Results(arguments.out), []
    for seed in arguments.seeds:
        for name in arguments.networks:
            key = {"network": name, "kept": arguments.kept, "seed": seed}
            record = results.find(**key)
            if record is None:
                measured = measure(name, seed, arguments)
                record = {"version": 1, **key, **measured, "machine": machine(), "command": command()}
                results.append(record)
            found.append(record)
    return found


def context_of(recipe: Recipe, seed: int, *, weights: Path | None = None) -> Context:
    """The recipe's data and network: with fresh weights, or with trained ones."""
    torch.manual_seed(seed)
    data = load_data(**recipe.data.model_dump(), batch_size=recipe.train.batch_size, seed=seed)
    shape = {"num_classes": data.classes, "in_channels": data.shape[0], "width": recipe.model.width}
    model = build_model(recipe.model.name, **shape, options=recipe.model.options)
    if weights is not None:
        model.load_state_dict(load_file(weights))
    return Context(model, data, recipe.train, Recorder(), seed=seed, trained=weights is not None)


def trained(recipe: Recipe, seed: int, cache: Path, share: float = 1.0) -> Path:
    """The file of the network that the recipe's training gives with this seed; trained if it is not in `cache`, and
    read on this share of the test images."""
    path = cache / f"{recipe.model.name}-{recipe.model.width}-{recipe.train.epochs}-{seed}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        context = context_of(recipe, seed)
        Dense().run(context)
        test = evaluate(context.model, test_batches(context, share))
        state = {name: value.contiguous() for name, value in context.model.state_dict().items()}
        save_file(state, path.with_suffix(".new"), {"test": json.dumps(test)})
        path.with_suffix(".new").rename(path)
        print(f"{path.stem}: {test:.2f} %", flush=True)
    return path


def test_batches(context: Context, share: float) -> Any:
    """This share of the test images, the same ones each time; can be had once for each context."""
    return context.data.test.open().share(share, seed=0)
