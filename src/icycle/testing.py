"""The proof that anyone can run on any model: removing channels gives the same function as zeroing them."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from icycle.engine import trace
from icycle.structure import Structure, SubNetwork
from icycle.surgery import prune
from icycle.tracing import call_with, output_tensors, undisturbed

__all__ = ["exact_part", "removal_error", "zero"]


def removal_error(model: nn.Module, example_inputs: Any, subnet: SubNetwork) -> float:
    """Relative error, in eval mode, of removing what `subnet` removes from exact groups against zeroing it.

    The groups of `subnet` that are not exact are kept whole for it. The result is the largest ||removed - zeroed|| /
    ||zeroed|| over the floating-point outputs: 0 where nothing is removed, about 1e-7 in float32 where the proof holds.
    The model is not changed. Raises SubNetworkError where `subnet` is not of this model."""
    structure = trace(model, example_inputs)
    exact = exact_part(structure, subnet)
    if all(bool(kept.all()) for kept in exact.keep.values()):
        return 0.0
    zeroed, removed = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    zero(zeroed, structure, exact)
    prune(removed, structure, exact)
    with undisturbed(model), torch.no_grad():
        expected = _outputs(zeroed, example_inputs)
        actual = _outputs(removed, example_inputs)
    return max((_relative_error(a, b) for a, b in zip(actual, expected, strict=True)), default=0.0)


def exact_part(structure: Structure, subnet: SubNetwork) -> SubNetwork:
    """`subnet` with every group that is not exact kept whole."""
    subnet.masks(structure)
    return SubNetwork(
        {
            group.name: subnet.keep[group.name] if group.exact else torch.ones(group.size, dtype=torch.bool)
            for group in structure.prunable
        }
    )


@torch.no_grad()
def zero(model: nn.Module, structure: Structure, subnet: SubNetwork) -> None:
    """Set to zero, in place, all parameters of the channels that `subnet` does not keep; running variances to one."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for group in structure.prunable:
        gone = ~subnet.keep[group.name].numpy()
        for piece in group.slices:
            tensor = tensors[piece.parameter]
            positions = torch.from_numpy(piece.index[gone].reshape(-1)).to(tensor.device)
            tensor.index_fill_(piece.dim, positions, 1.0 if piece.role == "variance" else 0.0)


def _outputs(model: nn.Module, example_inputs: Any) -> list[torch.Tensor]:
    return [tensor for tensor in output_tensors(call_with(model, example_inputs)) if tensor.is_floating_point()]


def _relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    if actual.shape != expected.shape:
        return math.inf
    size = float(expected.double().norm())
    difference = float((actual.double() - expected.double()).norm())
    return difference / size if size > 0 else difference
