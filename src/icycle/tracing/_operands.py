"""The arguments of an operation without its tensors: what it takes to repeat the operation at other sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from icycle.axes import Dim

__all__ = ["Operand", "without_tensors"]


@dataclass(frozen=True)
class Operand:
    """Stands for a tensor: its dimensions, those from the largest stride to the smallest, and its type."""

    dims: tuple[Dim, ...]
    order: tuple[int, ...]
    dtype: torch.dtype


def without_tensors(value: Any, dims: Callable[[torch.Tensor], tuple[Dim, ...]]) -> Any:
    """`value` with an `Operand` for every tensor, and plain integers for those that remember their origin."""
    if isinstance(value, torch.Tensor):
        strides = value.stride()
        order = sorted(range(value.dim()), key=strides.__getitem__, reverse=True)
        return Operand(dims(value), tuple(order), value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple(without_tensors(item, dims) for item in value)
    if isinstance(value, dict):
        return {key: without_tensors(item, dims) for key, item in value.items()}
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
