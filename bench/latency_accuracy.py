"""Half the latency, chosen by what is measured, beside as much of it, chosen by MACs: which is more accurate?

    python bench/latency_accuracy.py

Each network is trained on images of Fashion-MNIST, loses half of its latency (torch, batches of 64 images) at once, and
is refitted. Then the share of MACs is searched for at which the same removal by MACs comes out nearest to the same
measured latency, and that is done from the same trained network. Accuracy is that on all test images, right after the
removal and after two more epochs of training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, Record, by_setting, mean_and_deviation, provenance, table
from _start import add_arguments, context_of, measure_all, test_batches, trained
from torch import nn

from icycle.engine import trace
from icycle.errors import BudgetError
from icycle.latency import Setting, find_target, interleaved
from icycle.methods import Context, OneShot
from icycle.recipes import Recipe, load_recipe
from icycle.training import evaluate

NETWORKS: dict[str, dict[str, Any]] = {
    "ResNet-20 (width 64)": {"model.name": "resnet20", "model.width": 64, "train.epochs": 6},
    "VGG-16": {"model.name": "vgg16-bn", "train.epochs": 10, "train.optimizer.learning_rate": 0.01},
    "MobileNetV2": {"model.name": "mobilenet-v2", "train.epochs": 8},
    "small ViT": {
        "model.name": "timm/vit_tiny_patch16_224",
        "model.options": "{img_size: 28, patch_size: 4, depth: 6}",
        "train.epochs": 12,
        "train.optimizer": "{name: adamw, learning_rate: 0.001, weight_decay: 0.05}",
    },
}
_IMAGES = 2000
_TRAINING = {"train.batch_size": 32, "train.optimizer.learning_rate": 0.03}
_EPOCHS = {"right after": 0, "trained": 2}  # that follow the removal
_SHARES = (0.2, 0.8)  # of the MACs, between which the one lies that takes as long
_HALVINGS = 6  # of that interval
_BATCH = 64
_LIMIT = 0.95  # of a group's channels go at most
_SECONDS = 4.0  # of timing, for each network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, NETWORKS, "latency", RESULTS / "latency_accuracy.jsonl")
    print(tables(measure_all(parser.parse_args(), _measured)))


def _recipe(name: str) -> Recipe:
    setting = {"data.subset": _IMAGES, "data.validation": 0.15, "model.width": "null", **_TRAINING, **NETWORKS[name]}
    return load_recipe("fashion-ice-vgg", [f"{key}={value}" for key, value in setting.items()])


def _measured(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = _recipe(name)
    start = _Start(recipe, seed, trained(recipe, seed, arguments.cache))
    dense = evaluate(start.dense.model, test_batches(start.dense, 1.0))
    by_latency = start.judged_after({"latency": arguments.kept, "batch": _BATCH})
    by_macs = start.judged_after({"macs": _share_of_macs(start, by_latency["right after"]["latency"])})
    return {"dense": dense, **{moment: {"latency": by_latency[moment], "MACs": by_macs[moment]} for moment in _EPOCHS}}


def _share_of_macs(start: _Start, wanted: float) -> float:
    """Of the shares of MACs that bisection tries the one at which the latency left is nearest to `wanted`."""
    tried: dict[float, float] = {}
    least, most = _SHARES
    for _ in range(_HALVINGS):
        share = (least + most) / 2
        try:
            tried[share] = start.latency_of(start.pruned({"macs": share}, 0))
        except BudgetError:  # out of the limits' reach
            tried[share] = 0.0
        least, most = (least, share) if tried[share] > wanted else (share, most)
    return min(tried, key=lambda share: abs(tried[share] - wanted))


class _Start:
    """One trained network, and what becomes of it within a budget."""

    def __init__(self, recipe: Recipe, seed: int, weights: Path) -> None:
        self._recipe, self._seed, self._weights = recipe, seed, weights
        self.dense = self._context()
        self._macs = self._macs_of(self.dense)

    def pruned(self, budget: dict[str, float], epochs: int) -> Context:
        """Refitted, and trained for so many epochs."""
        context = self._context()
        OneShot(budget=budget, limit=_LIMIT, final_epochs=epochs).run(context)
        return context

    def judged_after(self, budget: dict[str, float]) -> dict[str, dict[str, float]]:
        """For every moment of `_EPOCHS` test accuracy, and the shares of latency and MACs that are left."""
        return {moment: self._judged(self.pruned(budget, epochs)) for moment, epochs in _EPOCHS.items()}

    def _judged(self, context: Context) -> dict[str, float]:
        test = evaluate(context.model, test_batches(context, 1.0))
        return {"test": test, "latency": self.latency_of(context), "macs": self._macs_of(context) / self._macs}

    def latency_of(self, context: Context) -> float:
        """The share of the dense network's."""
        return _ratio(context.model, self.dense.model, context.example_inputs)

    def _context(self) -> Context:
        return context_of(self._recipe, self._seed, weights=self._weights)

    def _macs_of(self, context: Context) -> int:
        return trace(context.model, context.example_inputs, proof="shapes").macs()


def _ratio(model: nn.Module, dense: nn.Module, example: torch.Tensor) -> float:
    """The latency of `model` over that of `dense`, measured in turn."""
    target, setting = find_target("torch"), Setting(threads=1)
    images = example[:1].expand(_BATCH, *example.shape[1:]).contiguous()
    with target.running(setting):
        # as training leaves them
        alike = [each.eval().to(memory_format=torch.channels_last) for each in (dense, model)]
        runs = [target.network(each, images, setting) for each in alike]
        whole, own = interleaved(runs, target.clock, target.watch, seconds=_SECONDS)
    return own.ratio_to(whole)


def tables(records: Sequence[Record]) -> str:
    """Two rows for each network, and where the figures are from."""
    gains = [f"{moment}: latency's - MACs'" for moment in _EPOCHS]
    columns = ("network", "seeds", "test, dense", "by", "latency left", "MACs left", *_EPOCHS, *gains)
    rows = []
    for runs in by_setting(records, ["network", "kept"]):
        for way in ("latency", "MACs"):
            left = [[100 * run["right after"][way][what] for run in runs] for what in ("latency", "macs")]
            tests = [[run[moment][way]["test"] for run in runs] for moment in _EPOCHS]
            rows.append(
                (
                    runs[0]["network"],
                    len(runs),
                    mean_and_deviation([run["dense"] for run in runs]),
                    way,
                    *(mean_and_deviation(shares, ".1f") for shares in left),
                    *map(mean_and_deviation, tests),
                    *(mean_and_deviation(_gains(runs, moment)) if way == "latency" else "" for moment in _EPOCHS),
                )
            )
    return f"{table(columns, rows)}\n\n{provenance(records)}"


def _gains(runs: Sequence[Record], moment: str) -> list[float]:
    return [run[moment]["latency"]["test"] - run[moment]["MACs"]["test"] for run in runs]


if __name__ == "__main__":
    main()
