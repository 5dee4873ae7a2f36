"""The operations of a run as functions of the kept counts: what it takes to time them at any width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

from icycle.axes import Dim, Polynomial, count
from icycle.tracing import Made, Operand, Step

__all__ = ["Operation", "Operations", "Piece", "TensorShape"]


@dataclass(frozen=True)
class TensorShape:
    """A tensor that an operation reads: its sizes as polynomials in group numbers, its dimensions from the largest
    stride to the smallest, its type ("float32"), and whether the model's inputs go into it (else it is a parameter, or
    made of such)."""

    sizes: tuple[Polynomial, ...]
    order: tuple[int, ...]
    dtype: str
    depends_on_input: bool


@dataclass(frozen=True)
class Piece:
    """A piece of memory that results lie in: `bytes` for each of the elements that there are by `sizes`, in group
    numbers."""

    number: int
    sizes: tuple[Polynomial, ...]
    bytes: int


@dataclass(frozen=True)
class Operation:
    """One operation of the run in evaluation mode.

    `name` finds it in `torch.ops` ("aten.convolution.default"); `arguments` and `keywords` are nested tuples and
    dicts with a `TensorShape` for every tensor; `outputs` are the sizes of the results. `made` is memory that it was
    the first to give a result in, `held` the numbers of all such pieces that are in use once it has run.
    """

    name: str
    where: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: tuple[tuple[Polynomial, ...], ...]
    made: tuple[Piece, ...] = ()
    held: tuple[int, ...] = ()


class Operations(Sequence[Operation]):
    """The steps of a run without their live dimensions; `groups` maps a free axis's `created` to its group number.

    They are worked out when they are first read, for only latency and memory ask for them; copies and pickles hold
    what was worked out.
    """

    def __init__(self, steps: tuple[Step, ...], groups: Mapping[int, int]) -> None:
        self._live = steps, groups

    @cached_property
    def _frozen(self) -> tuple[Operation, ...]:
        return tuple(_frozen_operations(*self._live))

    def __len__(self) -> int:
        return len(self._frozen)

    @overload
    def __getitem__(self, place: int) -> Operation: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Operation]: ...
    def __getitem__(self, place: int | slice) -> Operation | Sequence[Operation]:
        return self._frozen[place]

    def __getstate__(self) -> dict[str, Any]:
        return {"_frozen": self._frozen}


def _frozen_operations(steps: tuple[Step, ...], groups: Mapping[int, int]) -> Iterator[Operation]:
    sizes = _Sizes(groups)
    for step in steps:
        arguments, keywords = (_frozen(part, sizes) for part in step.arguments)
        outputs = tuple(sizes(dims) for dims in step.outputs if dims is not None)
        made = tuple(_piece(own, step, sizes) for own in step.memory.made if not _is_left_empty(own, step))
        yield Operation(str(step.operation), str(step.place), arguments, keywords, outputs, made, step.memory.held)


def _is_left_empty(made: Made, step: Step) -> bool:
    """Statistics that batch norm saves for the backward pass: meta kernels make them in evaluation, too; devices do
    not."""
    return made.result not in (0, None) and "batch_norm" in str(step.operation)


def _piece(made: Made, step: Step, sizes: _Sizes) -> Piece:
    dims = None if made.result is None else step.outputs[made.result]
    return Piece(made.number, (), made.whole) if dims is None else Piece(made.number, sizes(dims), made.bytes)


class _Sizes:
    """From live dimensions to their sizes; each is worked out once, as what one step gives others take."""

    def __init__(self, groups: Mapping[int, int]) -> None:
        self._groups = groups
        self._known: dict[int, Polynomial] = {}

    def __call__(self, dims: tuple[Dim, ...]) -> tuple[Polynomial, ...]:
        return tuple(self._known.get(id(dim)) or self._size(dim) for dim in dims)

    def _size(self, dim: Dim) -> Polynomial:
        size = count(dim)
        if self._groups.keys() >= size.variables:
            size = size.renamed(self._groups)
        else:  # no parameter has these channels
            size = Polynomial.constant(dim.size)
        return self._known.setdefault(id(dim), size)


def _frozen(value: Any, sizes: _Sizes) -> Any:
    if isinstance(value, Operand):
        dtype = str(value.dtype).removeprefix("torch.")
        return TensorShape(sizes(value.dims), value.order, dtype, value.depends_on_input)
    if isinstance(value, tuple):
        return tuple(_frozen(item, sizes) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item, sizes) for key, item in value.items()}
    return value
