"""Frozen dimension expressions over group numbers: which group owns which element of a dimension."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from icycle.axes import Axis, Dim, Sum, resolve

__all__ = ["Channels", "Concat", "Fixed", "Layout", "Outer", "fingerprint", "freeze", "positions"]


@dataclass(frozen=True)
class Fixed:
    """Elements that are always kept."""

    size: int

    def kept(self, keep: Sequence[np.ndarray]) -> np.ndarray:
        return np.ones(self.size, dtype=bool)

    def owners(self, group: int) -> list[np.ndarray]:
        return []


@dataclass(frozen=True)
class Channels:
    """The channels of one group, in order."""

    group: int
    size: int

    def kept(self, keep: Sequence[np.ndarray]) -> np.ndarray:
        return keep[self.group]

    def owners(self, group: int) -> list[np.ndarray]:
        return [np.arange(self.size)] if group == self.group else []


@dataclass(frozen=True)
class Concat:
    """The elements of each part after those of the one before."""

    parts: tuple[Layout, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def kept(self, keep: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([part.kept(keep) for part in self.parts])

    def owners(self, group: int) -> list[np.ndarray]:
        found = []
        for position, part in enumerate(self.parts):
            before = sum(other.size for other in self.parts[:position])
            after = self.size - before - part.size
            found += [np.pad(owner, (before, after), constant_values=-1) for owner in part.owners(group)]
        return found


@dataclass(frozen=True)
class Outer:
    """Row-major pairs; a pair is kept where all its factors' elements are."""

    factors: tuple[Layout, ...]

    @property
    def size(self) -> int:
        return int(np.prod([factor.size for factor in self.factors]))

    def kept(self, keep: Sequence[np.ndarray]) -> np.ndarray:
        return reduce(np.logical_and.outer, [factor.kept(keep) for factor in self.factors]).reshape(-1)

    def owners(self, group: int) -> list[np.ndarray]:
        found = []
        for position, factor in enumerate(self.factors):
            outer = int(np.prod([other.size for other in self.factors[:position]]))
            inner = int(np.prod([other.size for other in self.factors[position + 1 :]]))
            found += [np.tile(np.repeat(owner, inner), outer) for owner in factor.owners(group)]
        return found


Layout = Fixed | Channels | Concat | Outer


def freeze(dim: Dim, groups: Mapping[int, int]) -> Layout:
    """`dim` with its free axes replaced by group numbers; `groups` maps an axis's `created` to its group."""
    dim = resolve(dim)
    if isinstance(dim, Axis):
        group = groups.get(dim.created)
        return Fixed(dim.size) if group is None else Channels(group, dim.size)
    parts = tuple(freeze(operand, groups) for operand in dim.operands)
    if all(isinstance(part, Fixed) for part in parts):
        return Fixed(dim.size)
    return Concat(parts) if isinstance(dim, Sum) else Outer(parts)


def positions(layout: Layout, group: int, size: int) -> np.ndarray | None:
    """(size, m) int64: the m elements of the dimension that belong to each channel of `group`; None where none does."""
    owners = layout.owners(group)
    if not owners:
        return None
    columns = [np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0) :].reshape(size, -1) for owner in owners]
    return np.concatenate(columns, axis=1)


def fingerprint(layouts: Mapping[str, tuple[Layout, ...]]) -> str:
    """A hash of the names and shapes of all parameters and buffers, and of what is coupled with what."""
    return hashlib.sha256(repr(sorted(layouts.items())).encode()).hexdigest()
