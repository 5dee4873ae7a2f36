"""Tensors in nested containers: what models take and give, and the arguments of operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["map_tensors", "shapes_in_words"]


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


def shapes_in_words(inputs: Any) -> str:
    """Type and shape of every tensor in `inputs`, for a message; where there is none, the inputs themselves."""
    shapes: list[str] = []
    map_tensors(inputs, lambda tensor: shapes.append(f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"))
    return ", ".join(shapes) or repr(inputs)[:80]
