"""Dimension expressions: an axis, a concatenation of expressions, a row-major flattening of expressions."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable
from typing import Any

from icycle.reasons import Kind, Reason

__all__ = [
    "Axis",
    "Dim",
    "Product",
    "Sum",
    "is_pinned",
    "leaves",
    "mark_inexact",
    "pin",
    "product",
    "resolve",
    "sum_of",
]

_creation = itertools.count()


class Axis:
    """An independent dimension of `size` elements, until unification links it to something else.

    It is in one of these states:
    - linked: `link` is the expression that this axis was found to be, and nothing else of it counts any more;
    - a pinned root: `pinned` says why no element may be removed;
    - a free root: any element may be removed (but the last). Where `inexact` is None, removing elements is the same
      function as zeroing them; else it says why not.

    `created` numbers the axes in the order of their creation. It is an axis's identity outside of the algebra: the name
    of its variable in polynomials, and which of two joined axes remains the root (the older one).
    """

    __slots__ = ("created", "inexact", "link", "pinned", "size")

    def __init__(self, size: int, pinned: Reason | None = None, inexact: Reason | None = None) -> None:
        self.size = int(size)
        self.link: Dim | None = None
        self.pinned = pinned
        self.inexact = inexact
        self.created = next(_creation)

    def __repr__(self) -> str:
        return f"Axis#{self.created}({self.size}{', pinned' if self.pinned else ''})"


class _Compound:
    """What `Sum` and `Product` share: a tuple of operands, compared by value."""

    __slots__ = ("operands", "size")

    operands: tuple[Dim, ...]
    size: int

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.operands == other.operands

    def __hash__(self) -> int:
        return hash((type(self), self.operands))

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.operands}"


class Sum(_Compound):
    """Concatenation: the elements of the first operand, then those of the next."""

    __slots__ = ()

    def __init__(self, *operands: Dim) -> None:
        self.operands = operands
        self.size = sum(operand.size for operand in operands)


class Product(_Compound):
    """Row-major flattening: element (i, j) stands at i * |second| + j."""

    __slots__ = ()

    def __init__(self, *operands: Dim) -> None:
        self.operands = operands
        self.size = math.prod(operand.size for operand in operands)


Dim = Axis | Sum | Product


def sum_of(parts: Iterable[Dim]) -> Dim:
    """The concatenation of `parts` in normal form: no empty part, no sum within a sum, no sum of one."""
    flat: list[Dim] = []
    for part in parts:
        if part.size == 0:
            continue
        flat.extend(part.operands if isinstance(part, Sum) else (part,))
    if not flat:
        return Axis(0, Reason(Kind.EMPTY))
    return flat[0] if len(flat) == 1 else Sum(*flat)


def product(factors: Iterable[Dim]) -> Dim:
    """The flattening of `factors` in normal form.

    No factor of one element (it is always kept), no product within a product, and no sum in front: a leading sum is
    moved outwards, because (a + b) x c is a x c followed by b x c.
    """
    flat: list[Dim] = []
    last: Dim | None = None
    for factor in factors:
        last = factor
        if factor.size != 1:
            flat.extend(factor.operands if isinstance(factor, Product) else (factor,))
    if not flat:
        return last if last is not None else Axis(1, Reason(Kind.SINGLE))
    if len(flat) == 1:
        return flat[0]
    head, *tail = flat
    if isinstance(head, Sum):
        return sum_of(product((part, *tail)) for part in head.operands)
    return Product(*flat)


def resolve(dim: Dim) -> Dim:
    """What `dim` is by now: links followed and compressed, in normal form."""
    known = dim.link if isinstance(dim, Axis) else dim
    if known is None:
        return dim
    if _is_final(known):
        return known
    for axis in _linked_in(known):  # a chain of them may be longer than Python lets a function call itself
        axis.link = _renewed(axis.link)
    known = _renewed(known)
    if isinstance(dim, Axis):
        dim.link = known
    return known


def _is_final(dim: Dim) -> bool:
    """Whether there is no link to follow; False may also be said of a compound in a compound."""
    operands = (dim,) if isinstance(dim, Axis) else dim.operands
    return all(type(operand) is Axis and operand.link is None for operand in operands)


def _linked_in(dim: Dim) -> list[Axis]:
    """All axes with a link that `dim` leads to, each behind those that it leads to itself."""
    order: list[Axis] = []
    seen: set[int] = set()
    waiting: list[tuple[Any, bool]] = [(dim, False)]
    while waiting:
        one, below_done = waiting.pop()
        if below_done:
            order.append(one)
        elif not isinstance(one, Axis):
            waiting.extend((operand, False) for operand in one.operands)
        elif one.link is not None and id(one) not in seen:
            seen.add(id(one))
            waiting += [(one, True), (one.link, False)]
    return order


def _renewed(dim: Any) -> Dim:
    """`dim` with the links of its axes, which are final, in their places."""
    if isinstance(dim, Axis):
        return dim if dim.link is None else dim.link
    operands = tuple(map(_renewed, dim.operands))
    if all(map(operator.is_, operands, dim.operands)):
        return dim
    return sum_of(operands) if isinstance(dim, Sum) else product(operands)


def leaves(dim: Dim) -> list[Axis]:
    """The root axes of which `dim` is made, in order, repetitions included."""
    return _roots(resolve(dim))


def _roots(resolved: Dim) -> list[Axis]:
    if isinstance(resolved, Axis):
        return [resolved]
    return [axis for operand in resolved.operands for axis in _roots(operand)]


def pin(dim: Dim, reason: Reason) -> None:
    """Forbid removal from every axis of `dim`; an axis that is pinned already keeps its first reason."""
    for axis in leaves(dim):
        if axis.pinned is None:
            axis.pinned = reason


def mark_inexact(dim: Dim, reason: Reason) -> None:
    """Record for every axis of `dim` that removing is not the same function as zeroing; the first reason stays."""
    for axis in leaves(dim):
        if axis.inexact is None:
            axis.inexact = reason


def is_pinned(dim: Dim) -> bool:
    """True where no element of `dim` may be removed."""
    return all(axis.pinned is not None for axis in leaves(dim))
