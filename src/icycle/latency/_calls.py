"""Operations as functions of their free sizes: what is timed, at which sizes, and what two operations have in common.

An operation's tensors have sizes that follow the kept counts. The distinct ones among these sizes are its *free sizes*:
of a convolution the channels that come in and those that go out. Two operations that differ in nothing but the groups
that their free sizes belong to take the same time, and are timed once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from icycle.axes import Polynomial
from icycle.structure import Operation, TensorShape

__all__ = ["Call", "Free", "Tensor", "call_of", "parameters_read"]


@dataclass(frozen=True)
class Free:
    """The free size with this number."""

    number: int


Size = int | Free


@dataclass(frozen=True)
class Tensor:
    """A tensor that is read: sizes, dimensions from the largest stride to the smallest, and type ("float32")."""

    sizes: tuple[Size, ...]
    order: tuple[int, ...]
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of a tensor that has no free ones (any more)."""
        return tuple(size for size in self.sizes if isinstance(size, int))


@dataclass(frozen=True)
class Call:
    """An operation with the free sizes `full` in the whole network; each is a multiple of its `units` at any width.

    A `rigid` call is one that cannot be repeated at other sizes, or takes no time that depends on them (a view).
    """

    name: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: tuple[tuple[Size, ...], ...]
    full: tuple[int, ...]
    units: tuple[int, ...]
    rigid: bool = False

    @property
    def key(self) -> str:
        """The same for calls that take the same time at the same sizes."""
        return repr((self.name, self.arguments, sorted(self.keywords.items()), self.full if self.rigid else ()))

    @property
    def identity(self) -> str:
        """The same for calls that may have one table."""
        return f"{self.key} {self.full}"

    @property
    def kind(self) -> str:
        """The same for calls of which one may take a network longer, or less long, than alone as another does."""
        grouped = self.name.startswith("aten.convolution") and self.arguments[8] != 1
        return f"{self.name}, in groups" if grouped else self.name

    def at(self, values: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments at these free sizes, with a `Tensor` for every tensor."""
        sizes = self.full if self.rigid else tuple(values)
        return _filled(self.arguments, sizes), _filled(dict(self.keywords), sizes)

    def output_shapes(self, values: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        return tuple(_filled(output, tuple(values)) for output in self.outputs)


def call_of(operation: Operation, full: np.ndarray) -> tuple[Call, tuple[Polynomial, ...]]:
    """The call of an operation, and its free sizes as polynomials in group numbers; `full` are the whole counts."""
    counts = dict(enumerate(full.tolist()))
    free: dict[Polynomial | str, int] = {}
    polynomials: list[Polynomial] = []

    def size(polynomial: Polynomial) -> Size:
        if all(monomial == () for monomial in polynomial.terms):
            return polynomial.terms.get((), 0)
        key = repr(sorted(polynomial.terms.items()))
        if key not in free:
            free[key] = len(polynomials)
            polynomials.append(polynomial)
        return Free(free[key])

    def sized(value: Any) -> Any:
        if isinstance(value, TensorShape):
            return Tensor(tuple(size(polynomial) for polynomial in value.sizes), value.order, value.dtype)
        if isinstance(value, tuple):
            return tuple(sized(item) for item in value)
        if isinstance(value, dict):
            return {key: sized(item) for key, item in value.items()}
        return value

    arguments, keywords = sized(operation.arguments), sized(dict(operation.keywords))
    outputs = tuple(tuple(size(polynomial) for polynomial in sizes) for sizes in operation.outputs)
    call = Call(
        operation.name,
        arguments,
        keywords,
        outputs,
        full=tuple(polynomial(counts) for polynomial in polynomials),
        units=tuple(math.gcd(*polynomial.terms.values()) for polynomial in polynomials),
    )
    return _repeatable(call), tuple(polynomials)


def parameters_read(operation: Operation) -> Polynomial:
    """How many entries of parameters an operation reads; none where integers pick some of them (an embedding)."""
    total = Polynomial.constant(0)
    shapes = [leaf for leaf in _leaves((operation.arguments, operation.keywords)) if isinstance(leaf, TensorShape)]
    if not any("int" in shape.dtype for shape in shapes):
        for shape in shapes:
            if not shape.depends_on_input:
                total += math.prod(shape.sizes, start=Polynomial.constant(1))
    return total


def _repeatable(call: Call) -> Call:
    """The call with those integer arguments made free that must be, as a run without data shows; or rigid."""
    operation = _operation(call.name)
    if not call.full or operation is None or _is_view(operation):
        return replace(call, rigid=bool(call.full))
    fewer = tuple(unit * max(1, size // unit // 2 - place) for place, (size, unit) in enumerate(_sizes(call)))
    alone = [(*call.full[:k], size, *call.full[k + 1 :]) for k, size in enumerate(fewer)]
    for candidate in _candidates(call):
        if all(_runs(operation, candidate, values) for values in (fewer, *alone)):  # a reshape ties sizes together
            return candidate
    return replace(call, rigid=True)


def _sizes(call: Call) -> Iterator[tuple[int, int]]:
    return zip(call.full, call.units, strict=True)


def _candidates(call: Call) -> Iterator[Call]:
    """The call as it is, then with integers that equal a free size made that size (the number of a convolution's
    groups, the shape of a norm)."""
    integers = {leaf for leaf in _leaves((call.arguments, call.keywords)) if type(leaf) is int}
    present = sorted(integers & set(call.full))
    owners: list[list[int | None]] = [[None, *(k for k, n in enumerate(call.full) if n == value)] for value in present]
    for chosen in itertools.product(*owners):
        freed = {value: Free(owner) for value, owner in zip(present, chosen, strict=True) if owner is not None}
        yield replace(call, arguments=_freed(call.arguments, freed), keywords=_freed(dict(call.keywords), freed))


def _runs(operation: Callable[..., Any], call: Call, values: tuple[int, ...]) -> bool:
    """Whether a run on tensors without data gives the shapes that were predicted."""
    arguments, keywords = call.at(values)
    try:
        result = operation(*_map(_on_meta, arguments), **_map(_on_meta, keywords))
    except Exception:
        return False
    results = result if isinstance(result, (tuple, list)) else (result,)
    shapes = [tuple(item.shape) for item in results if isinstance(item, torch.Tensor)]
    return shapes[: len(call.outputs)] == list(call.output_shapes(values))


def _on_meta(tensor: Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype), device="meta")


def _operation(name: str) -> Any:
    """What `torch.ops` has under a name such as "aten.relu.default"; None where there is no such thing."""
    library, *rest = name.split(".")
    if len(rest) != 2 or not hasattr(torch.ops, library):
        return None
    return getattr(getattr(getattr(torch.ops, library), rest[0], None), rest[1], None)


def _is_view(operation: Any) -> bool:
    returns = operation._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


def _map(function: Callable[[Tensor], Any], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return [_map(function, item) for item in value]
    if isinstance(value, dict):
        return {key: _map(function, item) for key, item in value.items()}
    return value


def _filled(value: Any, sizes: tuple[int, ...]) -> Any:
    if isinstance(value, Free):
        return sizes[value.number]
    if isinstance(value, Tensor):
        return replace(value, sizes=_filled(value.sizes, sizes))
    if isinstance(value, tuple):
        return tuple(_filled(item, sizes) for item in value)
    if isinstance(value, dict):
        return {key: _filled(item, sizes) for key, item in value.items()}
    return value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(item)
    else:
        yield value


def _freed(value: Any, freed: Mapping[int, Free]) -> Any:
    if type(value) is int:
        return freed.get(value, value)
    if isinstance(value, tuple):
        return tuple(_freed(item, freed) for item in value)
    if isinstance(value, dict):
        return {key: _freed(item, freed) for key, item in value.items()}
    return value
