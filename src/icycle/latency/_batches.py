"""The traced inputs at another batch size, and what a trace would have found with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from icycle.engine import trace
from icycle.errors import LatencyError
from icycle.structure import Structure
from icycle.tracing import batch_size, call_with, copy_of, map_tensors, output_tensors, with_batch

__all__ = ["batch_of", "inputs_at", "structure_at"]


def batch_of(structure: Structure) -> int:
    """Examples in the traced batch."""
    return 1 if structure.example is None else batch_size(structure.example.inputs)


def structure_at(model: nn.Module, structure: Structure, batch: int | None, inputs: Any) -> Structure:
    """The structure with operations of `batch` examples, `inputs`: traced anew where it saw another number."""
    if batch in (None, batch_of(structure)):
        return structure
    for head_width in (False, True):
        other = trace(copy_of(model).eval(), inputs, head_width=head_width)
        if [(g.name, g.size) for g in other.prunable] == [(g.name, g.size) for g in structure.prunable]:
            return other
    raise LatencyError(
        f"Expected the same groups with a batch of {batch} as with the traced one, but they differ; trace the model "
        "with inputs of the batch that is to be measured."
    )


def inputs_at(model: nn.Module, structure: Structure, batch: int | None) -> Any:
    """Inputs like those of the trace, with numbers in the floats, and with `batch` examples.

    Raises LatencyError where another batch is not a matter of the inputs' first dimension.
    """
    if structure.example is None or not structure.operations:
        raise LatencyError(
            "Expected a structure that icycle.trace made, but this one has no operations: nothing can be measured."
        )
    generator = torch.Generator().manual_seed(0)
    traced = map_tensors(structure.example.inputs, lambda tensor: _with_numbers(tensor, generator))
    size = batch_of(structure)
    if batch in (None, size):
        return traced
    before = _output_shapes(model, traced)
    for least in (1, 2):  # dimensions of an input that has an entry for every example: a vector may list something else
        inputs = with_batch(traced, batch, least=least)
        after = _output_shapes(model, inputs)
        if len(before) == len(after) and all(_follows(*pair, size, batch) for pair in zip(before, after, strict=True)):
            return inputs
    raise LatencyError(
        f"Expected inputs whose first dimension is the batch, so that a batch of {batch} can be made of the traced one "
        f"of {size}, but outputs of {before} did not follow; trace the model with the batch that is to be measured, "
        "and leave batch out."
    )


def _with_numbers(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A copy; of what has no data, noise laid out in the same order."""
    if not tensor.is_meta:
        return tensor.detach().clone()
    made = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    order = sorted(range(tensor.dim()), key=tensor.stride().__getitem__, reverse=True)
    return made.permute(order).contiguous().permute(sorted(range(len(order)), key=order.__getitem__))


def _output_shapes(model: nn.Module, inputs: Any) -> list[tuple[int, ...]]:
    """Of all tensors; none where the model does not run on these inputs."""
    device = next(model.parameters(), torch.empty(0)).device
    try:
        with torch.inference_mode():
            outputs = call_with(copy_of(model).eval(), map_tensors(inputs, lambda tensor: tensor.to(device)))
        return [tuple(tensor.shape) for tensor in output_tensors(outputs)]
    except Exception:
        return []


def _follows(before: tuple[int, ...], after: tuple[int, ...], size: int, batch: int) -> bool:
    """Has the first dimension become as much larger as the batch, and all else stayed? Or nothing changed at all?"""
    if before == after:
        return True
    return len(before) == len(after) and before[0] * batch == after[0] * size and before[1:] == after[1:]
