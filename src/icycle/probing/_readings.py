"""What the weights of a model read: for every product of an activation with a parameter, the activation.

Neither layers nor hooks are asked: the operations themselves are observed, and an operand is recognised as a parameter,
or as some rows of one, by the memory it lies in. So an attention's projections, a weight that is shared and an `einsum`
are seen like any layer. A weight that is computed from parameters is none of them, and is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Reading", "Window", "watching"]


@dataclass(frozen=True)
class Window:
    """What a convolution over images sees at once, in the words of `torch.nn.functional.unfold`."""

    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Reading:
    """A parameter's dimension `dim` was contracted with the channels of `inputs`, a tensor (samples, channels, ...)
    whose positions lie behind the channels.

    Only `rows` of the parameter, along its dimension `row_dim`, took part: all of them, unless the parameter was cut
    (the joined projections of an attention) or the convolution is grouped. `bias` is the parameter that was added to
    the result, and the place in it of the first of these rows; None where there was none. `window` is that of a
    convolution over images, whose parameter is (rows, channels, height, width); None for anything else.
    """

    parameter: str
    dim: int
    row_dim: int
    rows: range
    inputs: torch.Tensor
    bias: tuple[str, int] | None = None
    window: Window | None = None


Observer = Callable[[Reading], None]


@contextmanager
def watching(model: torch.nn.Module, observe: Observer, *, computed: bool = False) -> Iterator[None]:
    """Within the block `observe` is called with every reading, before the operation's result is used; not where there
    is nothing to read, as by an expert to which no sample of a batch comes.

    With `computed` a weight under a parametrisation counts as the parameters of its own shape that it is made of.
    """
    known = dict(model.named_parameters())
    with parametrize.cached():
        weights = list(_computed(model)) if computed else []
        with _Watch(_Parameters([*known.items(), *weights]), observe):
            yield


def _computed(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parametrised weight, which stays the same tensor while `parametrize.cached` lasts, by its originals."""
    for path, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        prefix = f"{path}.parametrizations" if path else "parametrizations"
        for name, made_of in module.parametrizations.items():
            weight = getattr(module, name)
            for original, parameter in made_of.named_parameters(recurse=False):
                if parameter.shape == weight.shape:
                    yield f"{prefix}.{name}.{original}", weight


class _Watch(TorchDispatchMode):
    def __init__(self, parameters: _Parameters, observe: Observer) -> None:
        super().__init__()
        self._parameters = parameters
        self._observe = observe

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        read = _READERS.get(func.overloadpacket)
        if read is not None:
            for reading in read(self._parameters, *args):
                if reading.inputs.numel():
                    self._observe(reading)
        return func(*args, **(kwargs or {}))


class _Parameters:
    """Parameters by the memory they lie in."""

    def __init__(self, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._known: dict[tuple[Any, int], list[tuple[str, torch.Tensor]]] = {}
        for name, parameter in parameters:
            self._known.setdefault(_memory(parameter), []).append((name, parameter))

    def find(self, tensor: torch.Tensor, dims: tuple[int, ...]) -> tuple[str, tuple[int, ...], int] | None:
        """The parameter of which `tensor` is a view, its dimensions that `dims` of the view run along, and where along
        the last of them the view begins; None where the view is no such piece."""
        for name, parameter in self._known.get(_memory(tensor), ()):
            own = [place for dim in dims if (place := _same_dim(parameter, tensor, dim)) is not None]
            if len(set(own)) < len(dims):
                continue
            before = int(tensor.storage_offset()) - int(parameter.storage_offset())
            start, rest = divmod(before, parameter.stride(own[-1]))
            if rest == 0 and 0 <= start <= parameter.shape[own[-1]] - tensor.shape[dims[-1]]:
                return name, tuple(own), start
        return None


def _memory(tensor: torch.Tensor) -> tuple[Any, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _same_dim(parameter: torch.Tensor, view: torch.Tensor, dim: int) -> int | None:
    """The dimension of `parameter` that dimension `dim` of its `view` walks along."""
    for own in range(parameter.dim()):
        if parameter.stride(own) == view.stride(dim) and view.shape[dim] <= parameter.shape[own]:
            return own
    return None


# ---- which operand is contracted with which ----


def _product(
    parameters: _Parameters, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None
) -> Iterator[Reading]:
    """a (samples, k) x b (k, rows); or with the parameter in front, a (rows, k) x b (k, samples)."""
    for weight, contracted, inputs in ((b, 0, a), (a, 1, b.T)):
        found = parameters.find(weight, (contracted, 1 - contracted))
        if found is not None:
            name, (dim, row_dim), start = found
            rows = range(start, start + weight.shape[1 - contracted])
            added = None if bias is None or weight is a else parameters.find(bias, (bias.dim() - 1,))
            yield Reading(name, dim, row_dim, rows, inputs, None if added is None else (added[0], added[2]))
            return


def _addmm(parameters: _Parameters, bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *_: Any) -> Iterator[Reading]:
    return _product(parameters, a, b, bias)


def _mm(parameters: _Parameters, a: torch.Tensor, b: torch.Tensor) -> Iterator[Reading]:
    return _product(parameters, a, b)


def _linear(
    parameters: _Parameters, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> Iterator[Reading]:
    return _product(parameters, x.reshape(-1, x.shape[-1]), weight.T, bias)


def _convolution(
    parameters: _Parameters,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Iterator[Reading]:
    """x (samples, groups * i, ...), weight (groups * o, i, ...), or transposed (groups * i, o, ...)."""
    found = parameters.find(weight, (0, 1) if transposed else (1, 0))
    if found is None or (transposed and groups > 1):
        return
    name, (dim, row_dim), start = found
    added = None if bias is None else parameters.find(bias, (0,))
    images = weight.dim() == 4 and not transposed
    window = Window(tuple(weight.shape[2:]), tuple(dilation), tuple(padding), tuple(stride)) if images else None
    rows, channels = weight.shape[1 if transposed else 0] // groups, x.shape[1] // groups
    for number in range(groups):
        first = start + number * rows
        yield Reading(
            name,
            dim,
            row_dim,
            range(first, first + rows),
            x[:, number * channels : (number + 1) * channels],
            None if added is None else (added[0], added[2] + number * rows),
            window,
        )


_READERS: Mapping[Any, Callable[..., Iterator[Reading]]] = {
    torch.ops.aten.mm: _mm,
    torch.ops.aten.addmm: _addmm,
    torch.ops.aten.linear: _linear,
    torch.ops.aten.convolution: _convolution,
}
