"""From a model to its proven structure: trace, remove half of everything on a shadow, pin what did not follow."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import nn

from icycle.axes import is_pinned, pin
from icycle.engine._dry_run import dry_run
from icycle.errors import TraceError
from icycle.reasons import Kind, Reason
from icycle.structure import Structure, SubNetwork, build
from icycle.surgery import make_plan
from icycle.tracing import Trace, shadow_of, trace_model

__all__ = ["trace"]

_ATTEMPTS = 50  # every attempt pins at least one axis; no model met needed more than a few


def trace(model: nn.Module, example_inputs: Any, *, head_width: bool = False) -> Structure:
    """Find out which channels of `model` stand or fall together, and prove it by a dry run.

    `example_inputs` is a tensor, a tuple of positional arguments or a dict of keyword arguments with which the model
    runs. The width inside attention heads may be pruned only with `head_width`. The model is left as it is: mode,
    buffers, random state and attributes. Raises TraceError where the model cannot be copied or does not run on the
    example."""
    found = trace_model(model, example_inputs, head_width)
    shadow = found.shadow
    for _ in range(_ATTEMPTS):
        structure = build(found)
        if not structure.prunable or _prove(shadow, example_inputs, found, structure):
            return structure
        shadow = shadow_of(model, found.meta, found.caches, found.hooks)
    raise TraceError(
        f"Expected {type(model).__name__} to run as predicted after a trial removal, but after {_ATTEMPTS} corrections "
        "it still does not. Please report the model."
    )


def _prove(shadow: nn.Module, example_inputs: Any, found: Trace, structure: Structure) -> bool:
    """Remove a different share of every group on a shadow; where that goes wrong, pin the axes at fault."""
    subnet = _trial(structure)
    plan = make_plan(shadow, structure, subnet)
    free = [axis for axis in found.channel_axes() if axis.pinned is None]
    counts = {axis.created: int(kept.sum()) for axis, kept in zip(free, subnet.keep.values(), strict=True)}
    fault = dry_run(shadow, example_inputs, found, plan, counts)
    if fault is None:
        return True
    touched = [
        dim for step in fault.steps for dims in (*step.inputs, *step.outputs) if dims is not None for dim in dims
    ]
    if all(is_pinned(dim) for dim in touched):
        touched = [dim for dims in found.dims.values() for dim in dims]
    for dim in touched:
        pin(dim, Reason(Kind.DRY_RUN, fault.problem, *fault.steps[-1].place))
    found.settle()
    return False


def _trial(structure: Structure) -> SubNetwork:
    """Between a quarter and three quarters of every group, so that counts which must agree by chance do not."""
    dice = random.Random(0)
    keep = {}
    for group in structure.prunable:
        count = max(1, min(group.size - 1, round(group.size * dice.uniform(0.25, 0.75))))
        kept = torch.zeros(group.size, dtype=torch.bool)
        kept[dice.sample(range(group.size), count)] = True
        keep[group.name] = kept
    return SubNetwork(keep)
