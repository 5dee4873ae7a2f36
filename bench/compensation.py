"""What compensation brings right after half of the MACs went, before any training, and what it costs.

    python bench/compensation.py

VGG-16 of width 16 and ResNet-56 of width 8 are trained on 2,000 images of Fashion-MNIST (300 of them for validation).
Each then loses half of its MACs, the same share of every group, batch norm is recalibrated, and a quarter of the test
images is read. The channels are chosen by their norm, without and with compensation, and by what compensation cannot
make up for.

Seconds are those of the CPU, on one thread. An epoch is one of all 60,000 training images: as many training steps as
they make, each as long as the median of some.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from _common import RESULTS, Record, by_setting, mean_and_deviation, provenance, table
from _start import add_arguments, context_of, measure_all, test_batches, trained

from icycle.engine import trace
from icycle.methods import Context, OneShot
from icycle.recipes import Recipe, load_recipe
from icycle.training import evaluate

NETWORKS = {"vgg16-bn": (16, 40), "resnet56": (8, 12)}  # width, epochs

_IMAGES = 60_000
_TEST_SHARE = 0.25
_STEPS = 9
_WAYS = {  # settings of the removal
    "norm": {"criterion": "group_norm", "compensate": False},
    "norm, compensated": {"criterion": "group_norm"},
    "reconstruction, compensated": {"criterion": "reconstruction"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, NETWORKS, "MACs", RESULTS / "compensation.jsonl")
    print(tables(measure_all(parser.parse_args(), _measured)))


def _recipe(name: str) -> Recipe:
    width, epochs = NETWORKS[name]
    setting = {
        "model.name": name, "model.width": width, "data.subset": 2000, "data.validation": 0.15, "train.epochs": epochs
    }  # fmt: skip
    return load_recipe("fashion-ice-vgg", [f"{key}={value}" for key, value in setting.items()])


def _measured(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = _recipe(name)
    weights = trained(recipe, seed, arguments.cache, _TEST_SHARE)
    context = context_of(recipe, seed, weights=weights)
    found: dict[str, Any] = {"dense": evaluate(context.model, test_batches(context, _TEST_SHARE))}
    found["epoch"] = _seconds_of_a_step(context) * _IMAGES / recipe.train.batch_size
    for way, settings in _WAYS.items():
        context = context_of(recipe, seed, weights=weights)
        macs = trace(context.model, context.example_inputs).macs()
        method = OneShot(budget={"macs": arguments.kept}, limit=0.95, final_epochs=0, **settings)
        start = time.process_time()
        method.run(context)
        found[way] = {
            "seconds": time.process_time() - start,
            "test": evaluate(context.model, test_batches(context, _TEST_SHARE)),
            "macs": trace(context.model, context.example_inputs).macs() / macs,
        }
    return found


def _seconds_of_a_step(context: Context) -> float:
    """Of the dense network's training; the network is not the same afterwards."""
    trainer, seconds = context.trainer(), []
    for _ in range(_STEPS):
        start = time.process_time()
        trainer.train_for(context.data.train, 1 / len(context.data.train), lambda progress: 0.0)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def tables(records: Sequence[Record]) -> str:
    """A row for each network and way, and where the figures are from. The seconds that count are those beyond what the
    same removal takes by norm, without compensation."""
    columns = (
        *("network", "channels by", "test, dense", "test, right after", "of the gap closed"),
        *("seconds more", "an epoch, seconds", "share"),
    )
    rows = []
    for runs in by_setting(records, ["network", "kept"]):
        plain = [run["norm"] for run in runs]
        gaps = [run["dense"] - one["test"] for run, one in zip(runs, plain, strict=True)]
        for way in _WAYS:
            closed = [(run[way]["test"] - one["test"]) / gap for run, one, gap in zip(runs, plain, gaps, strict=True)]
            more = [run[way]["seconds"] - one["seconds"] for run, one in zip(runs, plain, strict=True)]
            shares = [100 * each / run["epoch"] for run, each in zip(runs, more, strict=True)]
            rows.append(
                (
                    runs[0]["network"],
                    way,
                    mean_and_deviation([run["dense"] for run in runs]),
                    mean_and_deviation([run[way]["test"] for run in runs]),
                    mean_and_deviation(closed),
                    mean_and_deviation(more),
                    mean_and_deviation([run["epoch"] for run in runs], ".0f"),
                    f"{mean_and_deviation(shares)} %",
                )
            )
    return f"{table(columns, rows)}\n\n{provenance(records)}"


if __name__ == "__main__":
    main()
