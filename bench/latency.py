"""Latency as a budget, measured: `python bench/latency.py` (resumable; `--table` prints what there is).

Operations are timed anew with ICYCLE_CACHE set to an empty folder; what was timed amid noise is else used again.

For every network, batch size and target: half the latency is asked for, and what was predicted and measured is
recorded; and the prediction's error on random sub-networks. Run it on a quiet machine, with nothing else on it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from _common import RESULTS, Record, Results, command, in_fresh_process, machine, provenance, table
from torch import nn

from icycle import Budget, SubNetwork, saliency, trace
from icycle.errors import BudgetError
from icycle.latency import Selector, targets
from icycle.zoo import build_model

__all__ = ["NETWORKS", "main"]

Network = Callable[[], tuple[nn.Module, torch.Tensor]]

_SPLITS = (0.15, 0.3, 0.45, 0.6)  # of every group's channels that random sub-networks lose


def _small_vit() -> nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, depth=6, num_classes=10)


def _torchvision(name: str) -> nn.Module:
    import torchvision

    model: nn.Module = getattr(torchvision.models, name)()
    return model


NETWORKS: dict[str, Network] = {
    "ResNet-20 (width 64)": lambda: (_zoo("resnet20", 64), torch.randn(1, 1, 28, 28)),
    "VGG-16": lambda: (_zoo("vgg16-bn", None), torch.randn(1, 1, 28, 28)),
    "MobileNetV2": lambda: (_zoo("mobilenet-v2", None), torch.randn(1, 1, 28, 28)),
    "ResNet-50 at 224": lambda: (_torchvision("resnet50"), torch.randn(1, 3, 224, 224)),
    "small ViT": lambda: (_small_vit(), torch.randn(1, 3, 32, 32)),
}


def _zoo(name: str, width: int | None) -> nn.Module:
    return build_model(name, num_classes=10, in_channels=1, width=width)


def measure(name: str, target: str, batch: int, fraction: float, networks: int) -> dict[str, Any]:
    """One line of the table: asked, predicted, measured, and the errors on random sub-networks."""
    torch.manual_seed(0)
    model, example = NETWORKS[name]()
    structure = trace(model.eval(), example)
    start = time.perf_counter()
    selector = Selector(structure, Budget(latency=fraction, target=target, batch=batch), model)
    latency = selector.latency
    assert latency is not None
    dense, prediction = latency.dense, latency.prediction
    record: dict[str, Any] = {"dense_ms": dense, "profile_seconds": time.perf_counter() - start}
    errors = []
    for seed in range(networks):
        subnet = SubNetwork.random(structure, _SPLITS[seed % len(_SPLITS)], seed)
        errors.append(prediction(subnet.counts(structure)) / latency.measure(subnet) - 1)
    record["random_errors"] = errors
    start = time.perf_counter()
    try:
        subnet = selector.measured(saliency.group_norm(model, structure))
        record |= {"kept_macs": structure.macs(subnet) / structure.macs(), "reached": True}
    except BudgetError as error:
        record |= {"reached": False, "error": str(error)}
    record["select_seconds"] = time.perf_counter() - start
    record["attempts"] = [[one.predicted / dense, one.measured / dense] for one in selector.attempts]
    return record


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--targets", nargs="+", choices=list(targets()), default=["torch", "onnxruntime"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--fraction", type=float, default=0.5)
    parser.add_argument("--random", type=int, default=20, help="random sub-networks that are measured")
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    options = parser.parse_args(arguments)
    results = Results(RESULTS / "latency.jsonl")
    for name in [] if options.table else options.networks:
        for target in options.targets:
            for batch in options.batches:
                case = {"network": name, "target": target, "batch": batch, "fraction": options.fraction}
                case["random"] = options.random
                if results.find(**case) is None:
                    found = in_fresh_process(measure, name, target, batch, options.fraction, options.random)
                    results.append({**case, **found, "machine": machine(), "command": command()})
                    print(_row(results.find(**case) or {}), file=sys.stderr)
    print(report(results.read()))


def report(records: list[Record]) -> str:
    """All records as a table, and what they were measured on."""
    if not records:
        return "nothing was measured yet"
    columns = (
        "network",
        "target",
        "batch",
        "dense, ms",
        "asked",
        "predicted",
        "measured",
        "MACs",
        "random: mean, worst",
    )
    return f"{table(columns, [_row(record) for record in records])}\n\n{provenance(records)}"


def _row(record: Record) -> list[str]:
    predicted, measured = record["attempts"][-1] if record["attempts"] else (float("nan"), float("nan"))
    errors = [abs(error) for error in record["random_errors"]] or [float("nan")]
    return [
        record["network"],
        record["target"],
        str(record["batch"]),
        f"{record['dense_ms']:.2f}",
        f"{record['fraction']:.0%}",
        f"{predicted:.1%}",
        f"{measured:.1%}" if record["reached"] else f"smallest {measured:.1%}",
        f"{record['kept_macs']:.1%}" if record["reached"] else "",
        f"{statistics.mean(errors):.1%}, {max(errors):.1%}",
    ]


if __name__ == "__main__":
    main()
