"""Results on the meta device of operations whose meta kernel torch has written in Python.

Those take a millisecond each, half of a trace; all that a trace wants of them is a few sizes. What is not plain is left
to torch's kernel (None), which knows the rest, and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["SHORTCUTS"]

aten = torch.ops.aten


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor] | None:
    channels = x.shape[1:2]
    given = [tensor for tensor in (weight, bias, mean, variance) if tensor is not None]
    if any((tensor.shape, tensor.dtype) != (channels, x.dtype) for tensor in given) or x.dtype not in _WHOLE:
        return None
    if not training and (mean is None or variance is None):
        return None
    saved = x.new_empty(channels)
    return torch.empty_like(x), saved, torch.empty_like(saved)


def _layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    rank = x.dim() - len(shape)
    given = (tensor for tensor in (weight, bias) if tensor is not None)
    if list(x.shape[rank:]) != list(shape) or x.dtype not in _WHOLE:
        return None
    if any((list(tensor.shape), tensor.dtype) != (list(shape), x.dtype) for tensor in given):
        return None
    saved = x.new_empty((*x.shape[:rank], *(1 for _ in shape)))
    return torch.empty_like(x, memory_format=torch.contiguous_format), saved, torch.empty_like(saved)


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0] or bias.shape != b.shape[1:]:
        return None
    return a.new_empty((a.shape[0], b.shape[1])) if a.dtype == b.dtype == bias.dtype else None


def _binary(a: Tensor, b: Any, *, alpha: Any = 1) -> Tensor | None:
    if not isinstance(b, Tensor) or (a.shape, a.stride(), a.dtype) != (b.shape, b.stride(), b.dtype):
        return None
    return torch.empty_like(a) if a.dtype.is_floating_point else None


def _unary(x: Tensor, *parameters: Any, **options: Any) -> Tensor | None:
    return torch.empty_like(x) if x.dtype.is_floating_point else None


def _unary_in_place(x: Tensor, *parameters: Any) -> Tensor | None:
    return x if x.dtype.is_floating_point else None


_WHOLE = (torch.float32, torch.float64)  # of a narrower type, what a norm saves is of another

SHORTCUTS: dict[Any, Callable[..., Any]] = {
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.addmm.default: _addmm,
    aten.add.Tensor: _binary,
    aten.mul.Tensor: _binary,
    aten.gelu.default: _unary,
}
for _name in ("relu", "leaky_relu", "elu", "hardtanh", "hardsigmoid", "hardswish", "mish"):
    SHORTCUTS[getattr(aten, _name).default] = _unary
    SHORTCUTS[getattr(aten, _name + "_").default] = _unary_in_place
