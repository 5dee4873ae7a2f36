"""What the proof costs: seconds of a trace over shapes, of one with the trial in numbers, and of a forward pass.

    python bench/proof_cost.py

Every model of bench/zoo.txt on two threads, the best of three each; allowed are 3 forward passes + 0.3 s + 5 ns per
weight. Records go to bench/results/proof_cost.jsonl.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _architectures import architecture
from _common import RESULTS, Record, Results, command, machine, provenance, table
from engine import zoo

import icycle

__all__ = ["tables"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=zoo())
    parser.add_argument("--out", type=Path, default=RESULTS / "proof_cost.jsonl")
    arguments = parser.parse_args()
    results = Results(arguments.out)
    for name in arguments.models:
        results.append({"version": 1, "model": name, **_measured(name), "machine": machine(), "command": command()})
    print(tables(results.read()))


def _measured(name: str) -> dict[str, Any]:
    torch.set_num_threads(2)
    model, example = architecture(name)
    model.eval()
    structure = icycle.trace(model, example)
    with torch.no_grad():
        model(example)
        forward = _best(lambda: model(example))
    return {
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "proof": structure.proof,
        "forward_seconds": forward,
        "shapes_seconds": _best(lambda: icycle.trace(model, example, proof="shapes")),
        "numbers_seconds": _best(lambda: icycle.trace(model, example)),
        "corrected": sum("by a trial" in group.inexact_reason + group.reason for group in structure.groups),
    }


def _best(run: Callable[[], Any], times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def tables(records: Sequence[Record]) -> str:
    """A row per model, and where the figures are from."""
    rows = [
        (
            record["model"],
            f"{record['forward_seconds']:.3f}",
            f"{record['shapes_seconds']:.3f}",
            f"{record['numbers_seconds']:.3f}",
            f"{3 * record['forward_seconds'] + 0.3 + 5e-9 * record['weights']:.3f}",
            record["corrected"],
        )
        for record in records
    ]
    columns = ("model", "forward s", "trace, shapes s", "trace, numbers s", "allowed s", "groups corrected")
    return f"{table(columns, rows)}\n\n{provenance(records)}"


if __name__ == "__main__":
    main()
