"""The traced inputs at another batch size, and what a trace would have found with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from icycle.engine import trace
from icycle.errors import LatencyError
from icycle.structure import Structure
from icycle.tracing import copy_of, map_tensors

__all__ = ["batch_of", "example_of", "structure_at"]


def batch_of(structure: Structure) -> int:
    """Examples in the traced batch: the first dimension of the first input."""
    sizes: list[int] = []
    if structure.example is not None:
        map_tensors(structure.example.inputs, lambda tensor: sizes.extend(tensor.shape[:1]))
    return sizes[0] if sizes else 1


def structure_at(model: nn.Module, structure: Structure, batch: int | None) -> Structure:
    """The structure with operations of `batch` examples: traced anew where it saw another number."""
    if batch in (None, batch_of(structure)):
        return structure
    inputs = example_of(structure, batch)
    for head_width in (False, True):
        other = trace(copy_of(model).eval(), inputs, head_width=head_width)
        if [(g.name, g.size) for g in other.prunable] == [(g.name, g.size) for g in structure.prunable]:
            return other
    raise LatencyError(
        f"Expected the same groups with a batch of {batch} as with the traced one, but they differ; trace the model "
        "with inputs of the batch that is to be measured."
    )


def example_of(structure: Structure, batch: int | None) -> Any:
    """Inputs like those of the trace, with numbers in the floats, and with `batch` examples."""
    if structure.example is None or not structure.operations:
        raise LatencyError(
            "Expected a structure that icycle.trace made, but this one has no operations: nothing can be measured."
        )
    traced = batch_of(structure)
    generator = torch.Generator().manual_seed(0)

    def real(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_meta:
            made = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            order = sorted(range(tensor.dim()), key=tensor.stride().__getitem__, reverse=True)
            made = made.permute(order).contiguous().permute(sorted(range(len(order)), key=order.__getitem__))
        else:
            made = tensor.detach().clone()
        if batch is not None and batch != traced and made.dim() and made.shape[0] == traced:
            made = made[torch.arange(batch) % traced]
        return made

    return map_tensors(structure.example.inputs, real)
