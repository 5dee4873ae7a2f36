"""The arguments of an operation without its tensors: what it takes to repeat the operation at other sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from icycle.axes import Dim
from icycle.tracing._tracer import Info

__all__ = ["Operand", "without_tensors"]


@dataclass(frozen=True)
class Operand:
    """Stands for a tensor: its dimensions, those from the largest stride to the smallest, its type, and whether the
    model's inputs go into it."""

    dims: tuple[Dim, ...]
    order: tuple[int, ...]
    dtype: torch.dtype
    depends_on_input: bool


def without_tensors(value: Any, info: Callable[[torch.Tensor], Info]) -> Any:
    """`value` with an `Operand` for every tensor, and plain integers for those that remember their origin."""
    if isinstance(value, torch.Tensor):
        strides = value.stride()
        order = sorted(range(value.dim()), key=strides.__getitem__, reverse=True)
        known = info(value)
        return Operand(known.dims, tuple(order), value.dtype, known.depends_on_input)
    if isinstance(value, (tuple, list)):
        return tuple(without_tensors(item, info) for item in value)
    if isinstance(value, dict):
        return {key: without_tensors(item, info) for key, item in value.items()}
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
