"""Tensors in nested containers: what models take and give, and the arguments of operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["batch_size", "map_tensors", "shapes_in_words", "tensor_shapes", "with_batch"]


def map_tensors(value: Any, function: Any) -> Any:
    """`value` with `function` applied to every tensor in tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, function) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, function) for item in value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function) for key, item in value.items()}
    return value


def tensor_shapes(value: Any) -> list[tuple[int, ...]]:
    """The shape of every tensor in tuples, lists and mappings."""
    shapes: list[tuple[int, ...]] = []
    map_tensors(value, lambda tensor: shapes.append(tuple(tensor.shape)))
    return shapes


def batch_size(inputs: Any) -> int:
    """Examples in a batch: the first dimension that most tensors have, vectors left aside where there are others."""
    shapes = tensor_shapes(inputs)
    firsts = [shape[0] for shape in shapes if len(shape) > 1] or [shape[0] for shape in shapes if shape]
    return Counter(firsts).most_common(1)[0][0] if firsts else 1


def with_batch(inputs: Any, size: int, *, least: int = 1) -> Any:
    """`inputs` with `size` examples, its own one after another and again; tensors of fewer than `least` dimensions, and
    those whose first one is not the batch, stay."""
    before = batch_size(inputs)

    def repeated(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() < least or tensor.shape[0] != before:
            return tensor
        return tensor[torch.arange(size, device=tensor.device) % before]

    return map_tensors(inputs, repeated)


def shapes_in_words(inputs: Any) -> str:
    """Type and shape of every tensor in `inputs`, for a message; where there is none, the inputs themselves."""
    shapes: list[str] = []
    map_tensors(inputs, lambda tensor: shapes.append(f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"))
    return ", ".join(shapes) or repr(inputs)[:80]
