"""Least squares in the place of fine-tuning: what is left of a consumer takes over the work of what goes.

A consumer computes W x. Once channels of x are gone, the best that it can do with those that are left is

    W' = argmin E ||W x - W' x_kept||^2 = W C[:, kept] (C[kept, kept] + lambda I)^-1,    C = E[x x^T]

over the data. In other words, every removed channel is replaced by its regression on those that stay. Of a convolution
x is all that its window sees; where that is too large, the channels at one position, and each tap is refitted alike.
Where the consumer adds a bias, C is the covariance, and the bias takes what the means differ by.

Related: channel pruning by Lasso regression (He et al., ICCV 2017, equation 4), ThiNet (Luo et al., ICCV 2017, equation
7), which refit one layer after the other; here one pass serves all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from icycle.compensation._moments import Moments
from icycle.compensation._vectors import taps_of, vectors
from icycle.errors import DataError, SurgeryError
from icycle.probing import Reading, forward, in_eval_mode, watching
from icycle.structure import Structure, SubNetwork
from icycle.surgery import undoing
from icycle.tracing import undisturbed

__all__ = ["compensate"]

Kept = Mapping[tuple[str, int], torch.Tensor]  # a parameter and a dimension that shrinks -> (elements,) bool


@dataclass(frozen=True)
class _Consumer:
    """The part of a parameter that reads one input: its rows along `row_dim`, contracted along `dim`."""

    parameter: str
    dim: int
    row_dim: int
    rows: range
    taps: int


@dataclass
class _Evidence:
    """What was seen of a consumer: the moments of its input, and what was added to its output, each time it ran."""

    moments: Moments
    biases: set[tuple[str, int] | None]

    @property
    def bias(self) -> tuple[str, int] | None:
        """The bias that is its own; None where there is none, or not always the same."""
        return next(iter(self.biases)) if len(self.biases) == 1 else None


@torch.no_grad()
def compensate(
    model: nn.Module,
    structure: Structure,
    subnet: SubNetwork,
    batches: Iterable[Any],
    *,
    max_batches: int = 8,
    damping: float = 1e-3,
) -> nn.Module:
    """Refit, in place, what reads channels that `subnet` removes, and let it read them no longer; returns the model.

    To be called right before `icycle.prune(model, structure, subnet)`, with the structure of the model as it still is.
    Afterwards every consumer's weights are zero for the removed channels, and those for the kept channels are such that
    its output on the data is as close as can be to what it was. Weights that are computed from others (weight norm) and
    products of two activations are left as they are. Batch-norm statistics do not fit the new activations quite:
    recalibrate them after the removal.

    Args:
        batches: of training data: tensors, (inputs..., targets) or mappings of keyword arguments.
        max_batches: as many of them are read; one forward pass each, in evaluation mode.
        damping: lambda as a share of the mean second moment of the kept channels, > 0: how far correlations in the data
            are distrusted.

    Raises:
        SubNetworkError: `subnet` is not of `structure`.
        SurgeryError: `structure` is not of the model as it is now (after the removal it is too late), or a setting is
            out of range.
        DataError: there are no batches, or activations on them are not finite.
    """
    if damping <= 0 or max_batches < 1:
        raise SurgeryError(f"Expected damping > 0 and max_batches >= 1, but got {damping} and {max_batches}.")
    kept = _kept(model, structure, subnet)
    seen = _gather(model, kept, islice(batches, max_batches)) if kept else {}
    parameters = dict(model.named_parameters())
    changes: list[tuple[torch.Tensor, torch.Tensor]] = []
    for consumer, evidence in seen.items():
        changes += _refitted(parameters, consumer, kept[consumer.parameter, consumer.dim], evidence, damping)
    with undoing() as undo:
        for part, value in changes:
            undo.append(partial(_write, part, part.clone()))
            part.copy_(value)
    return model


def _write(part: torch.Tensor, value: torch.Tensor) -> None:
    part.copy_(value)


def _kept(model: nn.Module, structure: Structure, subnet: SubNetwork) -> Kept:
    masks = subnet.masks(structure)
    found = {}
    for name, parameter in model.named_parameters():
        layouts = structure.layouts.get(name, ())
        if tuple(layout.size for layout in layouts) != tuple(parameter.shape):
            raise SurgeryError(
                f"Expected {name} to have the shape {[layout.size for layout in layouts]} that it was traced with, but "
                f"it has {list(parameter.shape)}. Call icycle.compensate before icycle.prune, with the same structure."
            )
        for dim, layout in enumerate(layouts):
            mask = torch.from_numpy(layout.kept(masks)).to(parameter.device)
            if not mask.all():
                found[name, dim] = mask
    return found


def _gather(model: nn.Module, kept: Kept, batches: Iterable[Any]) -> dict[_Consumer, _Evidence]:
    """What all consumers of removed channels read, in one pass over the batches."""
    seen: dict[_Consumer, _Evidence] = {}

    def observe(reading: Reading) -> None:
        mask = kept.get((reading.parameter, reading.dim))
        if mask is not None:
            taps = taps_of(reading)
            consumer = _Consumer(reading.parameter, reading.dim, reading.row_dim, reading.rows, taps)
            evidence = seen.setdefault(consumer, _Evidence(Moments(mask.repeat_interleave(taps)), set()))
            evidence.moments.update(vectors(reading))
            evidence.biases.add(reading.bias)

    batch = None
    with undisturbed(model), in_eval_mode(model), watching(model, observe):
        for batch in batches:
            forward(model, batch)
    if batch is None:
        raise DataError("Expected at least one batch to compensate on, but there was none.")
    return seen


def _refitted(
    parameters: Mapping[str, nn.Parameter], consumer: _Consumer, kept: torch.Tensor, evidence: _Evidence, damping: float
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The part of the weight that reads the channels, and of the bias, each with its new value."""
    weight = parameters[consumer.parameter].narrow(consumer.row_dim, consumer.rows.start, len(consumer.rows))
    old = _as_matrix(weight, consumer).double()  # (rows, ..., n)
    regression = _regression(consumer, kept.repeat_interleave(consumer.taps), evidence, damping)
    new = old @ regression
    yield weight, _as_weight(new, weight, consumer)
    if evidence.bias is not None:
        name, start = evidence.bias
        bias = parameters[name].narrow(0, start, len(consumer.rows))
        lost = (old - new) @ evidence.moments.mean()
        yield bias, bias + lost.reshape(len(consumer.rows), -1).sum(dim=1)


def _as_matrix(weight: torch.Tensor, consumer: _Consumer) -> torch.Tensor:
    """(rows, ..., n): rows first, and last what is contracted, the window's elements with their channel."""
    if consumer.taps > 1:
        return weight.flatten(1)
    return weight.movedim((consumer.row_dim, consumer.dim), (0, -1))


def _as_weight(matrix: torch.Tensor, weight: torch.Tensor, consumer: _Consumer) -> torch.Tensor:
    """The inverse of `_as_matrix`."""
    if consumer.taps > 1:
        return matrix.reshape(weight.shape)
    return matrix.movedim((0, -1), (consumer.row_dim, consumer.dim))


def _regression(consumer: _Consumer, kept: torch.Tensor, evidence: _Evidence, damping: float) -> torch.Tensor:
    """(n, n) C[:, kept] (C[kept, kept] + lambda I)^-1 in the kept columns, zero in the others: how every element
    follows from those that stay."""
    cross = evidence.moments.second() if evidence.bias is None else evidence.moments.covariance()
    if not cross.isfinite().all():
        raise DataError(
            f"Expected finite activations in front of {consumer.parameter}, but there are others on these batches. "
            "The model is as it was; look for what makes them so, or leave compensation out."
        )
    among_kept = cross[kept]
    ridge = damping * among_kept.diagonal().mean()
    # where the channels are silent on all data there is nothing to fit: any ridge gives regressions of zero
    among_kept.diagonal().add_(ridge if ridge > 0 else 1.0)
    regression = cross.new_zeros(len(kept), len(kept))
    regression[:, kept] = torch.linalg.solve(among_kept, cross.T).T
    return regression
