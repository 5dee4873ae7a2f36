"""The operations of a run as functions of the kept counts: what it takes to time them at any width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from icycle.axes import Dim, Polynomial, count
from icycle.tracing import Operand, Step

__all__ = ["Operation", "TensorShape", "frozen_operations"]


@dataclass(frozen=True)
class TensorShape:
    """A tensor that an operation reads: its sizes as polynomials in group numbers, its dimensions from the largest
    stride to the smallest, and its type ("float32")."""

    sizes: tuple[Polynomial, ...]
    order: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Operation:
    """One operation of the run in evaluation mode.

    `name` finds it in `torch.ops` ("aten.convolution.default"); `arguments` and `keywords` are nested tuples and
    dicts with a `TensorShape` for every tensor; `outputs` are the sizes of the results.
    """

    name: str
    where: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: tuple[tuple[Polynomial, ...], ...]


def frozen_operations(steps: tuple[Step, ...], groups: Mapping[int, int]) -> Iterator[Operation]:
    """The steps with their live dimensions replaced; `groups` maps a free axis's `created` to its group number."""
    for step in steps:
        arguments, keywords = (_frozen(part, groups) for part in step.arguments)
        outputs = tuple(_sizes(dims, groups) for dims in step.outputs if dims is not None)
        yield Operation(str(step.operation), str(step.place), arguments, keywords, outputs)


def _frozen(value: Any, groups: Mapping[int, int]) -> Any:
    if isinstance(value, Operand):
        return TensorShape(_sizes(value.dims, groups), value.order, str(value.dtype).removeprefix("torch."))
    if isinstance(value, tuple):
        return tuple(_frozen(item, groups) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item, groups) for key, item in value.items()}
    return value


def _sizes(dims: tuple[Dim, ...], groups: Mapping[int, int]) -> tuple[Polynomial, ...]:
    return tuple(_size(dim, groups) for dim in dims)


def _size(dim: Dim, groups: Mapping[int, int]) -> Polynomial:
    size = count(dim)
    known = all(number in groups for monomial in size.terms for number in monomial)
    return size.renamed(groups) if known else Polynomial.constant(dim.size)  # no parameter has these channels
