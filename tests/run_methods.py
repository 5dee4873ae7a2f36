"""Runs of every method, one after the other, in the processes that this was started in; see test_processes.py.

torchrun --nproc-per-node 2 run_methods.py FOLDER METHOD ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from icycle.recipes import RunFolder, load_recipe, run_recipe

__all__ = ["METHODS", "NETWORK", "run_methods", "settings_of"]

# no batch norm, whose statistics are of each process's own part of a batch
NETWORK = """
from torch import nn


def build(num_classes):
    return nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, num_classes)
    )
"""
COMMON = (
    "model.name=plain_net:build",
    "model.width=null",
    "data.subset=240",
    "train.epochs=2",
    "train.batch_size=40",
    "train.optimizer.learning_rate=0.02",
)
METHODS: dict[str, tuple[str, ...]] = {
    "dense": (),
    "one-cycle": ("method.round_to=1", "method.criterion=taylor", "method.compensate=true"),
    "gradual": ("method.removals=2", "method.criterion=mean_activation"),
    "fixed": (),
    "at-init": (),
    "uniform": (),
    "one-shot": ("method.final_epochs=1",),
    "iterative": (),
    "ice": (
        "data.validation=0.4",
        "data.augment=false",
        "method.epochs=1",
        "method.threshold=20",
        "method.freeze=0.4",
        "method.final_epochs=4",
        "method.drop=0",
    ),
    "ice-published": (),
    "abc": ("method.sources=2", "method.cycles=2", "method.final_epochs=1"),
    "scratch": ("method.of=FOLDER/uniform",),
}


def settings_of(method: str, folder: Path) -> tuple[str, ...]:
    """The settings of its run, for the recipe `digits`."""
    own = (setting.replace("FOLDER", str(folder)) for setting in METHODS[method])
    return (*COMMON, f"method.name={method}", *own)


def run_methods(folder: Path, *methods: str) -> None:
    """A run of each method in a folder of its name."""
    for method in methods:
        run_recipe(load_recipe("digits", settings_of(method, folder)), RunFolder(folder / method))


if __name__ == "__main__":
    run_methods(Path(sys.argv[1]), *sys.argv[2:])
