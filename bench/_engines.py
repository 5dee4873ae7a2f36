"""One model in one engine, measured: what bench/engine.py runs in a process of its own. Linux only (it reads /proc).

    python bench/_engines.py icycle torchvision/resnet18

The first line of output says that the model is built; the last one is the result as JSON.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _architectures import CLASSES, architecture
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import icycle
from icycle.axes import is_pinned
from icycle.structure import build
from icycle.tracing import trace_model

__all__ = ["ENGINES", "prunable_share", "zoo_model"]

_RATIO = 0.5  # of the channels of every group

Facts = dict[str, Any]


def main() -> None:
    engine, name = sys.argv[1:]
    measure = ENGINES[engine]
    measure(*_small(), {})  # torch loads its meta kernels, the engine its modules: once per process, not per model
    model, example = zoo_model(name)
    print("built", flush=True)
    facts: Facts = {"megabytes": round(sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6, 1)}
    try:
        measure(model, example, facts)
    except Exception as error:
        facts |= {"status": "crash", "detail": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    print(json.dumps(facts))


def _small() -> tuple[nn.Module, torch.Tensor]:
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, CLASSES))
    return nn.Sequential(*layers).eval(), torch.randn(1, 3, 8, 8)


def zoo_model(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The model in evaluation mode; noise on its parameters, since zeros that some start with would prove nothing."""
    torch.manual_seed(0)
    model, example = architecture(name)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model, example


# The engines


def _icycle(model: nn.Module, example: torch.Tensor, facts: Facts) -> None:
    with _measured(facts, "trace"):
        structure = icycle.trace(model, example)
    facts |= {
        "groups": len(structure.prunable),
        "pinned": len(structure.groups) - len(structure.prunable),
        "prunable_share": prunable_share(structure),
        **_attention(model, example),
    }
    subnet = icycle.SubNetwork.random(structure, _RATIO, seed=0)
    dense = copy.deepcopy(model)
    with _measured(facts, "removal"):
        icycle.prune(model, structure, subnet)
    _check(dense, model, example, facts)
    params = sum(parameter.numel() for parameter in model.parameters())
    facts["cost_exact"] = structure.params(subnet) == params and structure.macs(subnet) == facts["macs"]
    facts["removal_error"] = icycle.testing.removal_error(dense, example, subnet)


def _torch_pruning(model: nn.Module, example: torch.Tensor, facts: Facts) -> None:
    """As the README of Torch-Pruning shows it, and no setting for any model."""
    import torch_pruning as tp

    dense = copy.deepcopy(model)
    ignored = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == CLASSES]
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    with _measured(facts, "trace"):
        pruner = tp.pruner.BasePruner(
            model, example, importance=importance, pruning_ratio=_RATIO, ignored_layers=ignored, round_to=8
        )
    with _measured(facts, "removal"):
        pruner.step()
    _check(dense, model, example, facts)


ENGINES = {"icycle": _icycle, "torch-pruning": _torch_pruning}


def prunable_share(structure: icycle.Structure) -> float:
    """The share, 0..1, of all convolution and matrix-product MACs that would go with the last prunable channel.

    A product's MACs vanish when one of its dimensions is empty, so this is the share of the MACs in products of which
    at least one dimension is made of prunable channels.
    """
    none = np.zeros(len(structure.prunable), dtype=np.int64)
    return 1 - structure.costs["macs"](none) / max(structure.macs(), 1)


def _attention(model: nn.Module, example: torch.Tensor) -> Facts:
    """How many attention layers there are, and in how many of them heads can go on their own.

    An attention layer is a softmax over positions, or a fused attention, of a tensor (batch, ..., positions, width); it
    has heads of its own where a dimension before the last two is not pinned.
    """
    found = trace_model(model, example)
    build(found)  # settles what stays
    (_, steps), *_ = found.runs
    heads = [
        not all(is_pinned(dim) for dim in step.inputs[0][:-2])
        for step in steps
        if any(word in step.operation.name() for word in ("softmax", "scaled_dot_product")) and len(step.inputs[0]) > 2
    ]
    return {"attention_layers": len(heads), "own_heads": sum(heads)}


def _check(dense: nn.Module, pruned: nn.Module, example: torch.Tensor, facts: Facts) -> None:
    """Run both: does the pruned model run, does its output keep its shape, and is anything gone?"""
    (expected, full), (output, macs) = _run(dense, example), _run(pruned, example)
    facts |= {"macs": macs, "macs_kept": macs / full}
    if output.shape != expected.shape:
        facts |= {"status": "wrong output", "detail": f"{list(output.shape)} instead of {list(expected.shape)}"}
    else:
        facts["status"] = "removed nothing" if macs == full else "pruned"


def _run(model: nn.Module, example: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Output and MACs, by torch's own counter."""
    model.requires_grad_(False)  # the counter hangs hooks on whatever needs a gradient
    with FlopCounterMode(display=False) as counter:
        output = model(example)
    return output, counter.get_total_flops() // 2


# Time and memory


@contextlib.contextmanager
def _measured(facts: Facts, what: str) -> Iterator[None]:
    """Seconds and the peak of the memory that is used beyond what was in use before, in MB."""
    before = _start_peak()
    start = time.perf_counter()
    yield
    facts[f"{what}_seconds"] = time.perf_counter() - start
    facts[f"{what}_megabytes"] = (_resident("VmHWM") - before) / 1e6


def _start_peak() -> int:
    """Give freed memory back to the system and forget the peak up to now; bytes in use."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _resident("VmRSS")


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
