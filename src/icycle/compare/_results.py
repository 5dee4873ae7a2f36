"""What a finished run says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icycle.compare._plan import DENSE, Run

__all__ = ["Result", "provenance", "read_result"]

_BATCH = "64"


@dataclass(frozen=True)
class Result:
    """One run. Seconds and epochs include those of the dense network that it started from; `macs` and `latency` (at
    batch 64) are shares of the dense network's."""

    label: str
    seed: int
    test_accuracy: float
    validation_accuracy: float
    seconds: float
    epochs: float
    macs: float
    latency: float


def read_result(run: Run, done: Mapping[tuple[str, int], Result]) -> Result:
    """The result of a finished run; `done` are those that it may have needed."""
    report = json.loads(run.folder.report.read_text(encoding="utf-8"))
    lines = run.folder.metrics.read_text(encoding="utf-8").splitlines()
    start = done[DENSE, run.seed] if DENSE in run.needs else None
    dense, pruned = report["dense"], report["pruned"]
    return Result(
        label=run.label,
        seed=run.seed,
        test_accuracy=report["test_accuracy"],
        validation_accuracy=report["validation_accuracy"],
        seconds=sum(report["seconds"].values()) + (start.seconds if start else 0.0),
        epochs=sum(map(_epochs, map(json.loads, lines))) + (start.epochs if start else 0.0),
        macs=pruned["macs"] / dense["macs"],
        latency=pruned["latency"][_BATCH]["median"] / dense["latency"][_BATCH]["median"],
    )


def _epochs(record: Mapping[str, object]) -> float:
    if record["kind"] == "epoch":
        return 1.0
    return float(record["epochs"]) if record["kind"] == "fine-tune" else 0.0  # type: ignore[arg-type]


def provenance(plan: Sequence[Run]) -> str:
    """A line about where and with what the finished runs of `plan` were measured."""
    places = [json.loads(run.folder.report.read_text(encoding="utf-8"))["environment"] for run in plan]
    different = dict.fromkeys(", ".join(f"{key} {value}" for key, value in place.items()) for place in places)
    seeds = ", ".join(map(str, dict.fromkeys(run.seed for run in plan)))
    return f"{len(plan)} runs, seeds {seeds}; {'; or '.join(different)}."
