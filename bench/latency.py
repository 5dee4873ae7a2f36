"""Latency as a budget, measured: `python bench/latency.py` (resumable; `--table` prints what there is).

Operations are timed anew with ICYCLE_CACHE set to an empty folder; what was timed amid noise is else used again.

For every network, batch size and target: half the latency is asked for, and what was predicted, measured, and measured
again from scratch is recorded; and the prediction's error on random sub-networks, none of which it has seen. Run it on
a quiet machine, with nothing else on it.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from _common import RESULTS, Record, Results, command, in_fresh_process, machine, provenance, table
from torch import nn

from icycle import Budget, SubNetwork, saliency, trace
from icycle.errors import BudgetError
from icycle.latency import Latency, Selector, targets
from icycle.structure import Structure
from icycle.zoo import build_model

__all__ = ["NETWORKS", "main"]

Network = Callable[[], tuple[nn.Module, torch.Tensor]]


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


def measure(name: str, target: str, batch: int, fraction: float, networks: int, threads: int) -> dict[str, Any]:
    """One line of the table: asked, predicted, measured, measured again, and the errors on random sub-networks."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model, example = NETWORKS[name]()
    structure = trace(model.eval(), example)
    budget = Budget(latency=fraction, target=target, batch=batch)
    start = time.perf_counter()
    selector = Selector(structure, budget, model)
    latency = selector.latency
    assert latency is not None
    dense, prediction = latency.dense, latency.prediction
    record: dict[str, Any] = {"dense_ms": dense, "profile_seconds": time.perf_counter() - start}
    errors = []
    for seed in range(networks):
        subnet = _random_widths(structure, seed)
        errors.append(prediction(subnet.counts(structure)) / latency.measure(subnet) - 1)
    record["random_errors"] = errors
    start = time.perf_counter()
    try:
        subnet = selector.measured(saliency.group_norm(model, structure))
    except BudgetError as error:
        record |= {"reached": False, "error": str(error)}
    else:
        again = Latency(model, structure, budget)  # which knows nothing of what was measured before
        record |= {"kept_macs": structure.macs(subnet) / structure.macs(), "reached": True}
        record["again"] = again.measure(subnet) / again.dense
    record["disturbed"] = statistics.fmean(latency.disturbed)
    record["select_seconds"] = time.perf_counter() - start
    record["attempts"] = [[one.predicted / dense, one.measured / dense] for one in selector.attempts]
    return record


def _random_widths(structure: Structure, seed: int) -> SubNetwork:
    """Every group keeps a share of its own of its channels, 30 to 100 %: widths are odd, and no two groups go alike."""
    shares = np.random.default_rng(1000 + seed).uniform(0.3, 1.0, len(structure.prunable))
    kept = zip(structure.prunable, shares, strict=True)
    return SubNetwork.first(structure, {group.name: max(1, round(share * group.size)) for group, share in kept})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--targets", nargs="+", choices=list(targets()), default=["torch", "onnxruntime"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--fraction", type=float, default=0.5)
    parser.add_argument("--random", type=int, default=20, help="random sub-networks that are measured")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    options = parser.parse_args(arguments)
    results = Results(RESULTS / "latency.jsonl")
    for name in [] if options.table else options.networks:
        for target in options.targets:
            for batch in options.batches:
                case = {"network": name, "target": target, "batch": batch, "fraction": options.fraction}
                case |= {"random": options.random, "threads": options.threads}
                if results.find(**case) is None:
                    found = in_fresh_process(measure, *case.values())
                    place = machine() | {"threads": str(options.threads)}
                    results.append({**case, **found, "machine": place, "command": _command()})
                    print(_row(results.find(**case) or {}), file=sys.stderr)
    print(tables(results.read()))


def _command() -> str:
    """Without what says only which of the cases are to be measured now."""
    return re.sub(r" --(networks|targets|batches)( '[^']*'| (?!--)\S+)+", "", command())


def tables(records: Sequence[Record]) -> str:
    """All records as a table, and what they were measured on."""
    if not records:
        return "nothing was measured yet"
    columns = (
        "network",
        "target",
        "threads",
        "batch",
        "dense, ms",
        "asked",
        "predicted",
        "measured",
        "measured again",
        "MACs",
        "random: mean, worst error",
        "disturbed readings",
    )
    return f"{table(columns, [_row(record) for record in records])}\n\n{provenance(records)}"


def _row(record: Record) -> list[str]:
    predicted, measured = record["attempts"][-1] if record["attempts"] else (float("nan"), float("nan"))
    errors = [abs(error) for error in record["random_errors"]] or [float("nan")]
    return [
        record["network"],
        record["target"],
        str(record["threads"]),
        str(record["batch"]),
        f"{record['dense_ms']:.2f}",
        f"{record['fraction']:.0%}",
        f"{predicted:.1%}",
        f"{measured:.1%}" if record["reached"] else f"smallest {measured:.1%}",
        f"{record['again']:.1%}" if record["reached"] else "",
        f"{record['kept_macs']:.1%}" if record["reached"] else "",
        f"{statistics.mean(errors):.1%}, {max(errors):.1%}",
        f"{record['disturbed']:.0%}",
    ]


if __name__ == "__main__":
    main()
