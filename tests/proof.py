"""The proof that the engine's tests run on a model: what a removal promises, checked against independent counts."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import icycle
from icycle.tracing import call_with, map_tensors, output_tensors

EXACT = 1e-10


def as_double(value: Any) -> Any:
    """`value` with every floating-point tensor in float64."""
    return map_tensors(value, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def some(structure: icycle.Structure, seed: int) -> icycle.SubNetwork:
    """A sub-network that loses between one channel and all but one of every group."""
    dice = torch.Generator().manual_seed(seed)
    keep = {}
    for group in structure.prunable:
        gone = int(torch.randint(1, group.size, (), generator=dice))
        keep[group.name] = torch.ones(group.size, dtype=torch.bool)
        keep[group.name][torch.randperm(group.size, generator=dice)[:gone]] = False
    return icycle.SubNetwork(keep)


def prove(model: nn.Module, inputs: Any, seed: int | None = None, **options: Any) -> icycle.Structure:
    """Trace `model` in float64, remove half of every group (`seed`: a random share) from a copy, check all promises.

    The removal equals zeroing over the exact groups; MACs and parameters are exact; one training step runs.
    """
    model, inputs = model.double(), as_double(inputs)
    structure = icycle.trace(model, inputs, proof="shapes", **options)  # numbers would make up for a wrong rule
    if not structure.prunable:
        return structure
    subnet = icycle.SubNetwork.random(structure, 0.5) if seed is None else some(structure, seed)
    assert icycle.testing.removal_error(model, inputs, subnet, structure=structure) <= EXACT
    pruned = icycle.prune(copy.deepcopy(model), structure, subnet)
    check_counts(pruned.eval(), inputs, structure, subnet)
    train_once(pruned, inputs)
    return structure


def check_counts(pruned: nn.Module, inputs: Any, structure: icycle.Structure, subnet: icycle.SubNetwork) -> None:
    """Torch's own counter and the parameters themselves agree with the structure's polynomials."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call_with(pruned, inputs)  # not every torch counts every fused attention
    assert 2 * structure.macs(subnet) == counter.get_total_flops()
    assert structure.params(subnet) == sum(parameter.numel() for parameter in pruned.parameters())


def train_once(model: nn.Module, inputs: Any) -> None:
    """One step of SGD in training mode; a batch of one is doubled, for batch norm's sake."""
    inputs = map_tensors(inputs, lambda tensor: torch.cat((tensor, tensor)) if tensor.shape[:1] == (1,) else tensor)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = sum(tensor.sum() for tensor in output_tensors(call_with(model, inputs)) if tensor.is_floating_point())
    loss.backward()
    optimizer.step()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def sizes(structure: icycle.Structure) -> dict[str, int]:
    """Name -> size of every prunable group, front to back."""
    return {group.name: group.size for group in structure.prunable}


def reasons(structure: icycle.Structure) -> str:
    """Why groups are pinned, one a line."""
    return "\n".join(f"{group.name}: {group.reason}" for group in structure.groups if not group.prunable)
