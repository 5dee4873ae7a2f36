"""A run of one-cycle in a loop of one's own, on a toy task."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import icycle
from icycle.methods import OneCycle, Phases
from icycle.selection import Budget
from icycle.structure import SubNetwork

HALF = Budget(macs=0.5)
NEVER_STABLE = Phases(monitor_start=0, sparsity_start=0, sparsity_end=0.5, lag=0.9)
EXAMPLE = torch.zeros(1, 1, 8, 8)


def train(model: nn.Module, pruner: OneCycle, optimizer: torch.optim.Optimizer, epochs: range, batches: list) -> None:
    for epoch in epochs:
        pruner.start_epoch(epoch)
        for inputs, labels in batches:
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            pruner.after_step()


def idle(pruner: OneCycle, epochs: int, steps: int) -> None:
    """A run in which nothing is learnt."""
    for epoch in range(epochs):
        pruner.start_epoch(epoch)
        for _ in range(steps):
            pruner.after_step()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def gone(model: nn.Module, structure: icycle.Structure, subnet: SubNetwork) -> dict[str, torch.Tensor]:
    """For each parameter where (bool) the removal takes something, by the definition of the slices."""
    taken = {name: torch.zeros(parameter.shape, dtype=torch.bool) for name, parameter in model.named_parameters()}
    for group in structure.prunable:
        for piece in group.slices:
            if piece.parameter in taken:
                for positions, kept in zip(piece.index, subnet.keep[group.name], strict=True):
                    if not kept:
                        taken[piece.parameter].index_fill_(piece.dim, torch.tensor(positions), True)
    return taken
