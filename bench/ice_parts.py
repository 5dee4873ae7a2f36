"""What ICE's parts bring where its trigger fires: threshold, freezing and the falling learning rate, each with each.

    python bench/ice_parts.py

VGG-16 of width 16 on 2,000 images of Fashion-MNIST is trained to its plateau and loses 88 % of its MACs, a layer at a
time, by the norms of its channels and without compensation. Nothing is augmented, so that what frozen layers put out
can be used again. Seconds are those of the CPU on one thread.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from _common import RESULTS, Record, Results, by_setting, command, mean_and_deviation, provenance, table
from _start import trained
from pareto import TEST_SHARE, measured, recipe_of

from icycle.methods import Curve, IceMethod

__all__ = ["tables"]

_KEPT = 0.12  # of the MACs
_EPOCHS = 20  # of the dense network
_THRESHOLDS = (5.0, 10.0, 20.0)  # points that may be lost
_FROZEN = (0.0, 0.3, 0.6)  # of the layers
_CURVES = {
    "flat": Curve(base=0.007),
    "falling": Curve(base=0.007, delta=7e-4, p=0.15, beta=50),  # within the ranges of arXiv 2505.07411
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-parts"), help="where trained networks are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results, recipe = Results(RESULTS / "ice_parts.jsonl"), recipe_of("vgg16-bn", _EPOCHS, augment=False)
    for seed, curve, freeze, threshold in itertools.product(arguments.seeds, _CURVES, _FROZEN, _THRESHOLDS):
        key = {"threshold": threshold, "freeze": freeze, "curve": curve, "seed": seed}
        if results.find(**key) is None:
            dense = trained(recipe, seed, arguments.cache, TEST_SHARE)
            method = _method(threshold, freeze, _CURVES[curve])
            results.append({**key, **measured(recipe, method, seed, dense), "command": command()})
    print(tables(results.read()))


def _method(threshold: float, freeze: float, curve: Curve) -> IceMethod:
    return IceMethod(
        budget={"macs": _KEPT},
        limit=0.95,
        steps="group",
        criterion="group_norm",
        compensate=False,
        threshold=threshold,
        freeze=freeze,
        curve=curve,
        epochs=1.0,
        final_epochs=2,
    )


def tables(records: Sequence[Record]) -> str:
    """A row for each combination, and where they come from."""
    columns = ("threshold", "frozen", "curve", "runs", "fine-tunes", "seconds", "test accuracy")
    rows = [
        (
            f"{runs[0]['threshold']:g}",
            f"{runs[0]['freeze']:.0%}",
            runs[0]["curve"],
            len(runs),
            mean_and_deviation([run["details"]["fine-tunes of steps"] for run in runs], ".1f"),
            mean_and_deviation([run["seconds"] for run in runs]),
            mean_and_deviation([run["test"] for run in runs]),
        )
        for runs in by_setting(records, ["threshold", "freeze", "curve"])
    ]
    return f"{table(columns, rows)}\n\n{provenance(records)}"


if __name__ == "__main__":
    main()
