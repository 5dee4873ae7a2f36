"""Criteria that read gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from icycle.errors import CriterionError
from icycle.probing import forward, in_eval_mode
from icycle.saliency._data import first_batches
from icycle.saliency._registry import Scores, criterion
from icycle.saliency._slices import Place, average, channel_sums, parameters_of, weights
from icycle.structure import Structure

__all__ = ["taylor"]


@criterion("taylor")
def taylor(
    model: torch.nn.Module,
    structure: Structure,
    *,
    loader: Iterable[Any] | None = None,
    loss: Callable[..., torch.Tensor] | None = None,
    batches: int = 8,
) -> Scores:
    """Mean over members and batches of (sum over a channel's slice of gradient * weight)^2.

    The first-order estimate of how much the loss changes when the slice is zeroed. `loss(outputs, targets)` ->
    scalar; a batch is (inputs, targets) or a mapping (then `targets` is the batch). The model is run in evaluation
    mode; its modes, its `.grad` and its frozen parameters are as before afterwards. Source: Importance Estimation for
    Neural Network Pruning (Molchanov et al., CVPR 2019).

    Raises:
        CriterionError: `loader` or `loss` is None, the loader is empty, the loss reaches none of the weights, or it or
            its gradient is not finite.
    """
    if loss is None:
        raise CriterionError(
            "Criterion 'taylor' reads gradients, but loss is None; pass loss(outputs, targets) -> scalar."
        )
    pieces = [piece for group in structure.prunable for piece in weights(group)]
    parameters = parameters_of(model, pieces)
    totals = [np.zeros(len(piece.index)) for piece in pieces]
    count = 0
    with in_eval_mode(model), _trainable(parameters.values()), torch.enable_grad():
        for batch in first_batches(loader, batches, "taylor"):
            value = loss(*forward(model, batch))
            _check_finite("loss", bool(value.isfinite().all()), count)
            sums = channel_sums(_gradient_times_weight(value, parameters), lambda product, _: product)
            totals = [total + sums(piece) ** 2 for total, piece in zip(totals, pieces, strict=True)]
            _check_finite("gradient of the loss", all(np.isfinite(total).all() for total in totals), count)
            count += 1
    means = {id(piece): total / count for total, piece in zip(totals, pieces, strict=True)}
    return average(model, structure, weights, lambda piece: means[id(piece)])


def _check_finite(what: str, finite: bool, batch: int) -> None:
    if not finite:
        raise CriterionError(
            f"Expected a finite {what} on batch {batch} (the first is 0), but it is not; look for what makes it so, or "
            "choose a criterion that reads weights alone, such as 'group_norm'."
        )


def _gradient_times_weight(loss: torch.Tensor, parameters: dict[Place, torch.Tensor]) -> dict[Place, torch.Tensor]:
    unique = {name: parameter for (name, _), parameter in parameters.items()}
    gradients = torch.autograd.grad(loss, list(unique.values()), allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise CriterionError("Expected the loss to depend on the weights, but no gradient reaches any of them.")
    products = {
        name: torch.zeros_like(parameter) if gradient is None else parameter.detach() * gradient
        for (name, parameter), gradient in zip(unique.items(), gradients, strict=True)
    }
    return {(name, dim): products[name] for name, dim in parameters}


@contextmanager
def _trainable(parameters: Iterable[torch.Tensor]) -> Iterator[None]:
    """Frozen parameters have gradients within the block."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
