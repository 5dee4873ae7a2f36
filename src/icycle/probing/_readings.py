"""What the weights of a model read: for every product of an activation with a parameter, the activation.

Neither layers nor hooks are asked: the operations themselves are observed, and an operand is recognised as a parameter,
or as some rows of one, by the memory it lies in. So an attention's projections, a weight that is shared and an `einsum`
are seen like any layer, and so is a copy in another precision, such as autocast multiplies with. A weight that is
computed from parameters is none of them, and is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import TensorWeakRef

__all__ = ["Reading", "Window", "watching"]


@dataclass(frozen=True)
class Window:
    """What a convolution sees at once, in the words of `torch.nn.functional.unfold`, for each dimension of positions;
    of a transposed one, what a position of its input reaches. `outputs` is how many positions its output has."""

    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    stride: tuple[int, ...]
    outputs: tuple[int, ...]
    transposed: bool


@dataclass(frozen=True, eq=False)
class Reading:
    """A parameter's dimension `dim` was contracted with the channels of `inputs`, a tensor (samples, channels, ...)
    whose positions lie behind the channels.

    Only `rows` of the parameter, along its dimension `row_dim`, took part: all of them, unless the parameter was cut
    (the joined projections of an attention) or the convolution is grouped. `bias` is the parameter that was added to
    the result, and the place in it of the first of these rows; None where there was none. `window` is that of a
    convolution, whose parameter is (rows, channels, ...), or (channels, rows, ...) of a transposed one; None for
    anything else. `folded` is the shape (samples, positions, ...), or in another order, that the first dimension of
    `inputs` stands for, where a product of more dimensions was made one of matrices; else ().
    """

    parameter: str
    dim: int
    row_dim: int
    rows: range
    inputs: torch.Tensor
    bias: tuple[str, int] | None = None
    window: Window | None = None
    folded: tuple[int, ...] = ()


Observer = Callable[[Reading], None]


@contextmanager
def watching(model: torch.nn.Module, observe: Observer, *, computed: bool = False) -> Iterator[None]:
    """Within the block `observe` is called with every reading, before the operation's result is used; not where there
    is nothing to read, as by an expert to which no sample of a batch comes. It is called without autocast, and the
    operation takes up what `observe` changes in a parameter.

    With `computed` a weight under a parametrisation counts as the parameters of its own shape that it is made of.
    """
    known = dict(model.named_parameters())
    with parametrize.cached(), _recast():
        weights = list(_computed(model)) if computed else []
        with _Watch(_Parameters([*known.items(), *weights]), observe):
            yield


@contextmanager
def _recast() -> Iterator[None]:
    """Autocast keeps its copies of weights: none that was made before the block is used in it, none that was made in it
    after it, when weights may be others and gradients wanted."""
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()


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
        self._folded: tuple[TensorWeakRef, tuple[int, ...]] | None = None  # the last (samples * positions, channels)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        operation, kwargs = func.overloadpacket, kwargs or {}
        if operation in _READERS:
            self._tell(_READERS[operation](self._parameters, *args), args)
        elif torch.is_inference_mode_enabled():  # then operations come before they are taken apart
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if operation is torch.ops.aten._to_copy:
            self._parameters.add_copy(result, args[0])
        elif operation in _FOLDS and result.dim() == 2 < args[0].dim() and result.shape[1] == args[0].shape[-1]:
            self._folded = TensorWeakRef(result), tuple(args[0].shape[:-1])
        return result

    def _tell(self, readings: Iterator[Reading], operands: tuple[Any, ...]) -> None:
        for reading in readings:
            if reading.inputs.numel():
                with torch.autocast(reading.inputs.device.type, enabled=False):
                    self._observe(replace(reading, folded=reading.folded or self._shape_of(reading.inputs)))
        for operand in operands:
            if isinstance(operand, torch.Tensor):
                self._parameters.renew(operand)

    def _shape_of(self, inputs: torch.Tensor) -> tuple[int, ...]:
        """What the first dimension of `inputs` was folded of; () where it was not folded."""
        folded = None if self._folded is None else self._folded[0]()
        if self._folded is None or folded is None or _memory(folded) != _memory(inputs):
            return ()
        return self._folded[1] if folded.shape == inputs.shape else ()


class _Parameters:
    """Parameters by the memory they lie in, and copies of them."""

    def __init__(self, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._known: dict[tuple[Any, int], list[tuple[str, torch.Tensor]]] = {}
        self._copies: dict[tuple[Any, int], tuple[TensorWeakRef, int, torch.Tensor]] = {}  # with version and source
        for name, parameter in parameters:
            self._known.setdefault(_memory(parameter), []).append((name, parameter))

    def add_copy(self, copy: torch.Tensor, source: torch.Tensor) -> None:
        """`copy` has the values of `source`, if that is a parameter or a piece of one."""
        if _memory(source) in self._known or self._copy_at(source) is not None:
            self._copies[_memory(copy)] = TensorWeakRef(copy), _version(copy), source

    def renew(self, tensor: torch.Tensor) -> None:
        """The values that its parameter has now, for the copy that `tensor` is a view of, if it is one."""
        found = self._copy_at(tensor)
        if found is not None:
            copy, source = found
            self.renew(source)
            copy.copy_(source)
            self.add_copy(copy, source)  # in its new version

    def find(self, tensor: torch.Tensor, dims: tuple[int, ...]) -> tuple[str, tuple[int, ...], int] | None:
        """The parameter of which `tensor` is a view, or of a copy of which, its dimensions that `dims` of the view run
        along, and where along the last of them the view begins; None where the view is no such piece."""
        for name, parameter in self._known.get(_memory(tensor), ()):
            piece = _piece(parameter, tensor, dims)
            if piece is not None:
                return name, *piece
        found = self._copy_at(tensor)
        piece = None if found is None else _piece(found[0], tensor, dims)
        copied = None if found is None or piece is None else self.find(found[1], piece[0])
        return None if copied is None or piece is None else (copied[0], copied[1], copied[2] + piece[1])

    def _copy_at(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The copy that `tensor` is a view of, and its source; None where it was changed since, or is no more."""
        reference, version, source = self._copies.get(_memory(tensor), (None, 0, tensor))
        copy = None if reference is None else reference()
        return None if copy is None or _version(copy) != version else (copy, source)


def _memory(tensor: torch.Tensor) -> tuple[Any, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _version(tensor: torch.Tensor) -> int:
    """How often it was changed in place; tensors of the inference mode do not count it."""
    return 0 if tensor.is_inference() else tensor._version


def _piece(whole: torch.Tensor, view: torch.Tensor, dims: tuple[int, ...]) -> tuple[tuple[int, ...], int] | None:
    """The dimensions of `whole` that `dims` of its `view` run along, and where along the last of them it begins."""
    own = tuple(place for dim in dims if (place := _same_dim(whole, view, dim)) is not None)
    if len(set(own)) < len(dims):
        return None
    start, rest = divmod(int(view.storage_offset()) - int(whole.storage_offset()), whole.stride(own[-1]))
    fits = rest == 0 and 0 <= start <= whole.shape[own[-1]] - view.shape[dims[-1]]
    return (own, start) if fits else None


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
    for reading in _product(parameters, x.reshape(-1, x.shape[-1]), weight.T, bias):
        yield replace(reading, folded=tuple(x.shape[:-1]) if x.dim() > 2 else ())


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
    """x (samples, groups * i, ...), weight (groups * o, i, ...), or transposed (i, o, ...), in one group."""
    found = parameters.find(weight, (0, 1) if transposed else (1, 0))
    if found is None or (transposed and groups > 1):
        return
    name, (dim, row_dim), start = found
    added = None if bias is None else parameters.find(bias, (0,))
    window = _window(x, weight, stride, padding, dilation, transposed, output_padding)
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


def _window(
    x: torch.Tensor, weight: torch.Tensor, stride: Any, padding: Any, dilation: Any, transposed: bool, added: Any
) -> Window:
    """`added` is the output padding."""
    dims = weight.dim() - 2
    stride, padding, dilation, added = (
        tuple(each) * (dims // len(each)) for each in (stride, padding, dilation, added)
    )
    outputs = []
    for size, k, d, p, s, a in zip(x.shape[2:], weight.shape[2:], dilation, padding, stride, added, strict=True):
        beyond = d * (k - 1) - 2 * p
        outputs.append((size - 1) * s + beyond + a + 1 if transposed else (size - beyond - 1) // s + 1)
    return Window(tuple(weight.shape[2:]), dilation, padding, stride, tuple(outputs), transposed)


_READERS: Mapping[Any, Callable[..., Iterator[Reading]]] = {
    torch.ops.aten.mm: _mm,
    torch.ops.aten.addmm: _addmm,
    torch.ops.aten.linear: _linear,
    torch.ops.aten.convolution: _convolution,
}
_FOLDS = (torch.ops.aten.view, torch.ops.aten._unsafe_view)
