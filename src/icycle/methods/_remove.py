"""Where every method takes channels out of a network: what reads them is refitted first, then they go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import distributed, nn
from torch.optim.swa_utils import AveragedModel

from icycle.methods._distributed import is_distributed
from icycle.structure import Structure, SubNetwork, after_removal
from icycle.surgery import prune, undoing

__all__ = ["Refit", "remove"]

# Changes weights in place, so that they read no more what the sub-network does not keep; see `icycle.compensate`.
Refit = Callable[[nn.Module, Structure, SubNetwork], object]


def remove(
    model: nn.Module,
    structure: Structure,
    subnet: SubNetwork,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    averaged: Sequence[nn.Module] = (),
    refit: Refit | None = None,
) -> Structure:
    """Take out of `model`, and of `averaged` copies of it, what `subnet` does not keep; the structure of what is left.

    `refit` is called on each of them right before. Under data parallelism all ranks go on with what it made of rank 0's
    weights, as each has other data. Where anything raises, all are as they were. Errors as in `icycle.prune`, and those
    of `refit`.
    """
    with undoing() as undo:
        for each in (model, *averaged):
            if refit is None:
                break
            whole = each.module if isinstance(each, AveragedModel) else each
            undo.append(partial(_write, whole, {name: weight.clone() for name, weight in whole.named_parameters()}))
            refit(whole, structure, subnet)
            _take_from_rank0(whole)
        prune(model, structure, subnet, optimizer=optimizer, averaged=averaged)
    return after_removal(structure, subnet)


@torch.no_grad()
def _write(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


@torch.no_grad()
def _take_from_rank0(model: nn.Module) -> None:
    if is_distributed():
        for parameter in model.parameters():
            distributed.broadcast(parameter, src=0)
