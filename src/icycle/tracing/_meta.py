"""Results on the meta device of operations whose meta kernel torch has written in Python, or in many steps.

Those take a millisecond each, half of a trace, and a recurrent layer one for every step of its sequence; all that a
trace wants of them is a few sizes. What is not plain is left to torch (None), which knows the rest, and says what is
wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["FUNCTION_SHORTCUTS", "GATES", "SHORTCUTS"]

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
    return _like(x), saved, x.new_empty(channels)


def _layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    rank = x.dim() - len(shape)
    given = (tensor for tensor in (weight, bias) if tensor is not None)
    if list(x.shape[rank:]) != list(shape) or x.dtype not in _WHOLE:
        return None
    if any((list(tensor.shape), tensor.dtype) != (list(shape), x.dtype) for tensor in given):
        return None
    saved = (*x.shape[:rank], *(1 for _ in shape))
    return x.new_empty(x.shape), x.new_empty(saved), x.new_empty(saved)


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0] or bias.shape != b.shape[1:]:
        return None
    return a.new_empty((a.shape[0], b.shape[1])) if a.dtype == b.dtype == bias.dtype else None


def _binary(a: Tensor, b: Any, *, alpha: Any = 1) -> Tensor | None:
    if not isinstance(b, Tensor) or (a.shape, a.stride(), a.dtype) != (b.shape, b.stride(), b.dtype):
        return None
    return _like(a) if a.dtype.is_floating_point else None


def _binary_in_place(a: Tensor, b: Any, *, alpha: Any = 1) -> Tensor | None:
    if not isinstance(b, Tensor) or (a.shape, a.dtype) != (b.shape, b.dtype):
        return None
    return a if a.dtype.is_floating_point else None


def _unary(x: Tensor, *parameters: Any, **options: Any) -> Tensor | None:
    return _like(x) if x.dtype.is_floating_point else None


def _unary_in_place(x: Tensor, *parameters: Any) -> Tensor | None:
    return x if x.dtype.is_floating_point else None


def _like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape) if x.is_contiguous() else torch.empty_like(x)


_WHOLE = (torch.float32, torch.float64)  # of a narrower type, what a norm saves is of another

SHORTCUTS: dict[Any, Callable[..., Any]] = {
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.addmm.default: _addmm,
    aten.add.Tensor: _binary,
    aten.mul.Tensor: _binary,
    aten.add_.Tensor: _binary_in_place,
    aten.mul_.Tensor: _binary_in_place,
    aten.gelu.default: _unary,
}
for _name in ("relu", "leaky_relu", "elu", "hardtanh", "hardsigmoid", "hardswish", "mish"):
    SHORTCUTS[getattr(aten, _name).default] = _unary
    SHORTCUTS[getattr(aten, _name + "_").default] = _unary_in_place


GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""How many matrices lie in one weight of a recurrent layer."""


def _recurrent(gates: int, *args: Any) -> tuple[Tensor, ...] | None:
    """torch.lstm and the like, on a sequence or on packed steps, whose batch sizes come second."""
    if len(args) != 9:
        return None
    packed = not isinstance(args[3], bool)
    x, *others = (args[0], *args[2:]) if packed else args
    initial, weights, biases, layers, _, _, bidirectional, *rest = others
    states = [initial] if isinstance(initial, Tensor) else list(initial)
    directions = 2 if bidirectional else 1
    width = _width(x.shape[-1], list(weights), gates, biases, layers, directions)
    tensors = (x, *states, *weights)
    if width is None or not all(tensor.is_meta and tensor.dtype == x.dtype for tensor in tensors):
        return None
    batch_first = bool(rest and rest[0]) and x.dim() == 3
    if not _fit(states, x, width, layers * directions, packed, batch_first):
        return None
    leading = (x.shape[1], x.shape[0]) if batch_first else tuple(x.shape[:-1])
    out = x.new_empty((*leading, width[1] * directions))
    return (out.transpose(0, 1) if batch_first else out, *(torch.empty_like(state) for state in states))


def _width(
    features: int, weights: list[Tensor], gates: int, biases: bool, layers: int, directions: int
) -> tuple[int, int] | None:
    """The number of hidden units and of outputs; None where the weights do not fit together."""
    each, rest = divmod(len(weights), layers * directions)
    if rest or each not in (2 + 2 * biases, 3 + 2 * biases):
        return None
    hidden = weights[0].shape[0] // gates
    out = weights[each - 1].shape[0] if each == 3 + 2 * biases else hidden
    for number in range(layers * directions):
        inner = features if number < directions else out * directions
        rows = gates * hidden
        expected = [(rows, inner), (rows, out), *[(rows,)] * (2 * biases), (out, hidden)][:each]
        if [tuple(weight.shape) for weight in weights[number * each : (number + 1) * each]] != expected:
            return None
    return hidden, out


def _fit(states: list[Tensor], x: Tensor, width: tuple[int, int], cells: int, packed: bool, batch_first: bool) -> bool:
    """Whether the initial states (cells, batch, outputs), and of an LSTM (cells, batch, hidden units), are of that
    size. How many sequences were packed, the states alone say."""
    hidden, out = width
    batch = states[0].shape[1:-1] if packed else x.shape[0:1] if batch_first else x.shape[1:-1]
    shapes = [(cells, *batch, out), (cells, *batch, hidden)]
    return [tuple(state.shape) for state in states] == shapes[: len(states)]


FUNCTION_SHORTCUTS: dict[str, Callable[..., Any]] = {
    name: functools.partial(_recurrent, gates) for name, gates in GATES.items()
}
