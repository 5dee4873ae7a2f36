"""Where every method takes channels out of a network: what reads them is refitted first, then they go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import distributed, nn

from icycle.errors import TrainingError
from icycle.methods._distributed import flatten, require_same_everywhere
from icycle.probing import unwrapped
from icycle.structure import Structure, SubNetwork, after_removal
from icycle.surgery import prune, undoing
from icycle.tracing import is_sharded
from icycle.training import from_first, process_count

__all__ = ["Declined", "Refit", "remove"]

# Changes weights in place, so that they read no more what the sub-network does not keep; see `icycle.compensate`.
Refit = Callable[[nn.Module, Structure, SubNetwork], object]


class Declined(Exception):  # noqa: N818 - an answer
    """A removal was not wanted, once seen what refitting can make up for; all is as it was."""


def remove(
    model: nn.Module,
    structure: Structure,
    subnet: SubNetwork,
    *,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    averaged: Sequence[nn.Module] = (),
    refit: Refit | None = None,
    accept: Callable[[], bool] = lambda: True,
) -> Structure:
    """Take out of `model`, and of `averaged` copies of it, what `subnet` does not keep; the structure of what is left.

    `refit` is called on each of them right before, and then `accept`, which answers the same on all ranks. Under data
    parallelism all ranks remove what rank 0 does, and go on with what `refit` made of rank 0's weights, as each may
    have read other data. Where anything raises, all are as they were. Errors as in `icycle.prune`, those of `refit`,
    `Declined` where `accept` says no, and TrainingError where the ranks' models differ.
    """
    if refit is not None and any(is_sharded(parameter) for parameter in model.parameters()):
        raise TrainingError(
            f"Expected whole weights to compensate in, but {type(model).__name__} is sharded; leave compensate out"
        )
    subnet = _rank0s(model, structure, subnet)
    with undoing() as undo:
        for each in (model, *averaged):
            if refit is None:
                break
            whole = unwrapped(each)
            undo.append(partial(_write, whole, {name: tensor.clone() for name, tensor in _tensors(whole)}))
            refit(whole, structure, subnet)
            _take_from_rank0(whole)
        if not accept():
            raise Declined
        prune(model, structure, subnet, optimizer=optimizer, averaged=averaged)
    return after_removal(structure, subnet)


def _rank0s(model: nn.Module, structure: Structure, subnet: SubNetwork) -> SubNetwork:
    """What rank 0 removes, once it is sure that all ranks have the same model and were told the same."""
    if process_count() == 1:
        return subnet
    device = next(model.parameters(), torch.empty(0)).device
    require_same_everywhere("the model", structure.fingerprint, device)
    subnet = from_first(subnet)
    require_same_everywhere("the sub-network", repr(flatten(subnet).tolist()), device)
    return subnet


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights, and statistics such as batch norm's, which `accept` may estimate anew."""
    yield from model.named_parameters()
    yield from model.named_buffers()


@torch.no_grad()
def _write(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in _tensors(model):
        tensor.copy_(tensors[name])


@torch.no_grad()
def _take_from_rank0(model: nn.Module) -> None:
    if process_count() > 1:
        for parameter in model.parameters():
            distributed.broadcast(parameter, src=0)
