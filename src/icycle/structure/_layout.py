"""Frozen dimension expressions over group numbers: which group owns which element of a dimension."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce

import numpy as np

from icycle.axes import Axis, Dim, Polynomial, Sum, resolve

__all__ = ["Channels", "Concat", "Fixed", "Layout", "Outer", "count_of", "fingerprint", "freeze", "positions"]


Place = tuple[int, np.ndarray]  # a group, and (size, m) int64: the elements that belong to each of its channels


@dataclass(frozen=True)
class Fixed:
    """Elements that are always kept."""

    size: int

    def kept(self, keep: Sequence[np.ndarray]) -> np.ndarray:
        return np.ones(self.size, dtype=bool)

    def places(self) -> Iterator[Place]:
        return iter(())


@dataclass(frozen=True)
class Channels:
    """The channels of one group, in order."""

    group: int
    size: int

    def kept(self, keep: Sequence[np.ndarray]) -> np.ndarray:
        return keep[self.group]

    def places(self) -> Iterator[Place]:
        yield self.group, np.arange(self.size).reshape(-1, 1)


@dataclass(frozen=True)
class Concat:
    """The elements of each part after those of the one before."""

    parts: tuple[Layout, ...]

    @cached_property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def kept(self, keep: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([part.kept(keep) for part in self.parts])

    def places(self) -> Iterator[Place]:
        before = 0
        for part in self.parts:
            for group, index in part.places():
                yield group, before + index
            before += part.size


@dataclass(frozen=True)
class Outer:
    """Row-major pairs; a pair is kept where all its factors' elements are."""

    factors: tuple[Layout, ...]

    @cached_property
    def size(self) -> int:
        return math.prod(factor.size for factor in self.factors)

    def kept(self, keep: Sequence[np.ndarray]) -> np.ndarray:
        return reduce(np.logical_and.outer, [factor.kept(keep) for factor in self.factors]).reshape(-1)

    def places(self) -> Iterator[Place]:
        outer, inner = 1, self.size
        for factor in self.factors:
            inner //= factor.size
            rows = np.arange(outer).reshape(-1, 1, 1) * factor.size
            for group, index in factor.places():
                pairs = (rows + index.reshape(len(index), 1, -1, 1)) * inner + np.arange(inner)
                yield group, pairs.reshape(len(index), -1)
            outer *= factor.size


Layout = Fixed | Channels | Concat | Outer


def freeze(dim: Dim, groups: Mapping[int, int]) -> Layout:
    """`dim` with its free axes replaced by group numbers; `groups` maps an axis's `created` to its group."""
    dim = resolve(dim)
    if isinstance(dim, Axis):
        return _of_axis(groups.get(dim.created), dim.size)
    parts = tuple(freeze(operand, groups) for operand in dim.operands)
    if all(isinstance(part, Fixed) for part in parts):
        return Fixed(dim.size)
    return Concat(parts) if isinstance(dim, Sum) else Outer(parts)


@lru_cache(maxsize=4096)
def _of_axis(group: int | None, size: int) -> Layout:
    """One for all dimensions that are alike: most of a model's are."""
    return Fixed(size) if group is None else Channels(group, size)


def count_of(layout: Layout) -> Polynomial:
    """How many elements are kept, as a polynomial in the kept counts of the groups."""
    if isinstance(layout, Fixed):
        return Polynomial.constant(layout.size)
    if isinstance(layout, Channels):
        return Polynomial.variable(layout.group)
    if isinstance(layout, Concat):
        return reduce(operator.add, map(count_of, layout.parts))
    return reduce(operator.mul, map(count_of, layout.factors))


def positions(layout: Layout) -> dict[int, np.ndarray]:
    """Group -> (its size, m) int64: the m elements of the dimension that belong to each of its channels."""
    found: dict[int, list[np.ndarray]] = {}
    for group, index in layout.places():
        found.setdefault(group, []).append(index)
    return {group: pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1) for group, pieces in found.items()}


def fingerprint(layouts: Mapping[str, tuple[Layout, ...]]) -> str:
    """A hash of the names and shapes of all parameters and buffers, and of what is coupled with what."""
    return hashlib.sha256(repr(sorted(layouts.items())).encode()).hexdigest()
