"""The public removal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from icycle.errors import SurgeryError
from icycle.structure import Structure, SubNetwork
from icycle.surgery._apply import apply
from icycle.surgery._plan import make_plan

__all__ = ["prune"]


def prune(
    model: nn.Module,
    structure: Structure,
    subnet: SubNetwork,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    averaged: Sequence[nn.Module] = (),
) -> nn.Module:
    """Remove from `model`, in place, every channel that `subnet` does not keep; returns the model.

    Gradients and the state of `optimizer` are sliced along with the parameters; the parameters are new objects, to
    which the optimizer is rewired. `averaged` are copies of the model (an exponential average, say) that lose the same
    channels. Afterwards `structure` is outdated: trace again. Where anything raises, model, optimizer and copies are as
    they were.

    Raises SubNetworkError (made for another structure, or removes nothing), SurgeryError (structure of another model,
    or applied twice)."""
    plan = make_plan(model, structure, subnet)
    optimizers = _as_sequence(optimizer)
    for copy in averaged:
        make_plan(copy, structure, subnet)  # raises where the copy is not one
    try:
        apply(model, plan, optimizers, averaged)
    except Exception as error:
        raise SurgeryError(
            f"Removing {plan.removed} channels from {type(model).__name__} failed with "
            f"{type(error).__name__}: {error}. "
            "The model and its optimizer are as they were."
        ) from error
    return model


def _as_sequence(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None,
) -> Sequence[torch.optim.Optimizer]:
    if optimizer is None:
        return ()
    return [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
