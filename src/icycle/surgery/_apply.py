"""Putting a plan into effect: new parameters, buffers, attributes, gradients and optimizer state, all or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from icycle.surgery._draft import Draft, Swap, commit
from icycle.surgery._inputs import remember_inputs
from icycle.surgery._optimizers import optimizer_swaps
from icycle.surgery._plan import Plan
from icycle.surgery._sharded import Sharding
from icycle.surgery._tensors import successor
from icycle.tracing import named_tensors, whole

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
    swaps: list[Swap] = []
    for each in (model, *averaged):
        sharding = Sharding(each)
        old = dict(named_tensors(each))
        new = {name: _shrunk(name, old[name], plan, sharding) for name in plan.kept}
        swaps += _draft(each, old, new, plan).swaps()
        swaps += sharding.swaps()
        if each is model:
            swaps += optimizer_swaps(optimizers, old, new, plan)
    commit(swaps)


def _shrunk(name: str, old: torch.Tensor, plan: Plan, sharding: Sharding) -> torch.Tensor:
    """What takes the place of a parameter or buffer."""
    if sharding.holds(old):
        part = sharding.part(old, plan.take(name, whole(old)))
        return sharding.remember(successor(name, old, part, plan.kept[name]))
    return successor(name, old, plan.take(name, old), plan.kept[name])


def _draft(model: nn.Module, old: dict[str, torch.Tensor], new: dict[str, torch.Tensor], plan: Plan) -> Draft:
    draft = Draft(model)
    draft.exchange(old, new, plan.attributes)
    draft.rewrite(plan.edits)
    draft.empty(plan.caches)
    remember_inputs(draft.model, plan.inputs)
    return draft
