"""What one-cycle adds to a training step, and how long a search takes.

    python bench/step_overhead.py

First part: ResNet-20 of width 16 at batch 128 in float32, on random images of CIFAR's size, trained through the phase
in which one-cycle searches and shrinks (from 5 to 35 % of a run of 12 epochs of 70 steps, with 200 searches a run); no
removal comes before its end. Every call of `after_step` is timed, so searches count at the rate at which they occur.

Second part: a whole search (scores of all channels, and the selection) at half the MACs, or at 70 or 90 % where half is
out of reach, for ResNet-56 and all of bench/zoo.txt.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, Record, Results, command, in_fresh_process, machine, provenance, table
from engine import zoo
from torch import nn

import icycle
from icycle.errors import BudgetError
from icycle.methods import Phases
from icycle.training import SGD
from icycle.zoo import build_model, example_shape

_EPOCHS = 12
_BUDGETS = (0.5, 0.7, 0.9)
_REPEATS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps-per-epoch", type=int, default=70)
    parser.add_argument("--models", nargs="*", help="whose search is timed (default: resnet56 and bench/zoo.txt)")
    parser.add_argument("--out", type=Path, default=RESULTS / "step_overhead.jsonl", help="JSON lines")
    arguments = parser.parse_args()
    results = Results(arguments.out)
    step = {name: getattr(arguments, name) for name in ("width", "batch", "steps_per_epoch")}
    wanted = [_done(results, _step, step)]
    models = ["resnet56", *zoo()] if arguments.models is None else arguments.models
    wanted += [_done(results, _search, {"model": model}) for model in models]
    print(tables(wanted))


def _done(results: Results, measure: Callable[..., dict[str, Any]], settings: dict[str, Any]) -> Record:
    """The measurement, unless it is there already; in its own process."""
    key = {"kind": measure.__name__.strip("_"), "settings": settings}
    record = results.find(**key)
    if record is None:
        found = in_fresh_process(measure, *settings.values())
        record = {"version": 1, **key, **found, "machine": machine(), "command": command()}
        results.append(record)
    print(key, flush=True)
    return record


# One step


def _step(width: int, batch: int, steps_per_epoch: int) -> dict[str, Any]:
    """Milliseconds per step, of training and of one-cycle's own work, while one-cycle searches and shrinks."""
    torch.manual_seed(0)
    model = build_model("resnet20", num_classes=10, width=width).to(memory_format=torch.channels_last)
    optimizer = SGD(nesterov=True).build(model.parameters())
    phases = Phases(window=0.99)  # no indicator speaks for so long a window: the removal waits for the deadline
    pruner = icycle.OneCycle(
        model,
        torch.zeros(1, 3, 32, 32),
        budget=icycle.Budget(macs=0.5),
        epochs=_EPOCHS,
        optimizer=optimizer,
        steps_per_epoch=steps_per_epoch,
        phases=phases,
    )
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    first = round(phases.sparsity_start * _EPOCHS * steps_per_epoch)
    last = round(phases.sparsity_end * _EPOCHS * steps_per_epoch) - 1
    training, own, seconds, searches = [], [], {}, 0
    for step in range(last):
        epoch, within = divmod(step, steps_per_epoch)
        if within == 0:
            pruner.start_epoch(epoch)
        if step == first:
            seconds, searches = dict(pruner.report.seconds), pruner.report.searches
        taken = _timed(lambda: _train_step(model, optimizer, images, labels))
        after = _timed(pruner.after_step)
        if step >= first:
            training.append(taken)
            own.append(after)
    assert not pruner.removed
    searches = pruner.report.searches - searches
    spent = {stage: 1e3 * (pruner.report.seconds[stage] - before) for stage, before in seconds.items()}
    return {
        "steps": len(own),
        "searches": searches,
        "step_ms": 1e3 * statistics.fmean(training),
        "own_ms": 1e3 * statistics.fmean(own),
        "shrink_ms": spent["shrink"] / len(own),
        "search_ms": spent["search"] / max(searches, 1),
    }


def _train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> None:
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# One search


def _search(name: str) -> dict[str, Any]:
    """Milliseconds of a search: the median of some, after one that is not counted."""
    torch.manual_seed(0)
    model = build_model(name, num_classes=1000).eval()
    structure = icycle.trace(model, torch.zeros(1, *example_shape(name)))
    channels = sum(group.size for group in structure.prunable)
    macs = next((share for share in _BUDGETS if _reachable(model, structure, share)), None)
    facts = {"groups": len(structure.prunable), "channels": channels, "macs": macs}
    if macs is None:
        return {**facts, "scores_ms": None, "select_ms": None}
    budget = icycle.Budget(macs=macs)
    scores = icycle.saliency.group_norm(model, structure)
    return {
        **facts,
        "scores_ms": _median_ms(lambda: icycle.saliency.group_norm(model, structure)),
        "select_ms": _median_ms(lambda: icycle.select(structure, scores, budget)),
    }


def _reachable(model: nn.Module, structure: icycle.Structure, share: float) -> bool:
    try:
        icycle.select(structure, icycle.saliency.group_norm(model, structure), icycle.Budget(macs=share))
    except BudgetError:
        return False
    return True


def _median_ms(call: Callable[[], object]) -> float:
    return 1e3 * statistics.median(_timed(call) for _ in range(_REPEATS))


# Tables

_STEP_COLUMNS = (
    "ResNet-20 in float32",
    "steps",
    "training step (ms)",
    "one-cycle per step (ms)",
    "share",
    "of it shrink (ms)",
    "searches",
    "a search (ms)",
)
_SEARCH_COLUMNS = (
    "a search in",
    "groups",
    "channels",
    "budget: MACs",
    "scores (ms)",
    "selection (ms)",
    "whole search (ms)",
)


def tables(records: Sequence[Record]) -> str:
    """Markdown: a row for each measured step, and one for each search, the slowest first."""
    steps = [record for record in records if record["kind"] == "step"]
    searches = [record for record in records if record["kind"] == "search" and record["select_ms"] is not None]
    searches.sort(key=lambda record: -_whole(record))
    shown = [record for record in searches if record["settings"]["model"] == "resnet56" or record in searches[:5]]
    parts = []
    if steps:
        parts.append(table(_STEP_COLUMNS, map(_step_row, steps)))
    if searches:
        parts.append(table(_SEARCH_COLUMNS, map(_search_row, shown)))
        parts.append(f"The slowest of {len(searches)} models, and ResNet-56; the median is {_median(searches)} ms.")
    return "\n\n".join([*parts, provenance(records)])


def _whole(record: Record) -> float:
    return float(record["scores_ms"] + record["select_ms"])


def _median(searches: Sequence[Record]) -> str:
    return f"{statistics.median(map(_whole, searches)):.1f}"


def _step_row(record: Record) -> list[str]:
    settings = record["settings"]
    return [
        f"width {settings['width']}, batch {settings['batch']}",
        str(record["steps"]),
        f"{record['step_ms']:.1f}",
        f"{record['own_ms']:.2f}",
        f"{record['own_ms'] / record['step_ms']:.2%}",
        f"{record['shrink_ms']:.2f}",
        str(record["searches"]),
        f"{record['search_ms']:.1f}",
    ]


def _search_row(record: Record) -> list[str]:
    return [
        record["settings"]["model"],
        str(record["groups"]),
        str(record["channels"]),
        f"{record['macs']:.0%}",
        f"{record['scores_ms']:.1f}",
        f"{record['select_ms']:.1f}",
        f"{_whole(record):.1f}",
    ]


if __name__ == "__main__":
    main()
