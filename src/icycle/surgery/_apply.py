"""Putting a plan into effect: new parameters, buffers, attributes, gradients and optimizer state, all or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from icycle.surgery._draft import Draft, commit
from icycle.surgery._inputs import remember_inputs
from icycle.surgery._optimizers import optimizer_swaps
from icycle.surgery._plan import Plan
from icycle.surgery._tensors import successor
from icycle.tracing import named_tensors

__all__ = ["apply"]


def apply(
    model: nn.Module,
    plan: Plan,
    optimizers: Sequence[torch.optim.Optimizer] = (),
    averaged: Sequence[nn.Module] = (),
) -> None:
    """Put `plan` into effect on `model`, its optimizers and its averaged copies; an error leaves all as they were.

    All that is new is made first, beside the old; `commit` then exchanges it at once.
    """
    old = dict(named_tensors(model))
    new = _shrunk(model, plan)
    swaps = list(_draft(model, new, plan).swaps())
    swaps += optimizer_swaps(optimizers, old, new, plan)
    for copy in averaged:
        swaps += _draft(copy, _shrunk(copy, plan), plan).swaps()
    commit(swaps)


def _shrunk(model: nn.Module, plan: Plan) -> dict[str, torch.Tensor]:
    old = dict(named_tensors(model))
    return {name: successor(name, old[name], plan.take(name, old[name]), kept) for name, kept in plan.kept.items()}


def _draft(model: nn.Module, new: dict[str, torch.Tensor], plan: Plan) -> Draft:
    draft = Draft(model)
    draft.exchange(new, plan.attributes)
    draft.rewrite(plan.edits)
    draft.empty(plan.caches)
    remember_inputs(draft.model, plan.inputs)
    return draft
