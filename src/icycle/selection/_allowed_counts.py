"""Which kept counts each group may have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np

from icycle.errors import BudgetError
from icycle.structure import Group, Structure

__all__ = ["Lattice", "Settled"]

_NOTHING = 1e-3  # of the whole cost: a group that can free no more is not worth cutting
_LEVEL = 0.1  # of what a group's channels free on average: where fewer is freed the cost stands still


@dataclass(frozen=True, eq=False)
class Lattice:
    """The allowed kept counts of each group: its whole `size`, and the multiples of `step` from `lowest` up.

    All fields and all counts below are int64 of shape (groups,).
    """

    size: np.ndarray
    step: np.ndarray
    lowest: np.ndarray

    @classmethod
    def of(cls, structure: Structure, removable: Callable[[Group], int], *, round_to: int, min_keep: int) -> Lattice:
        """At most `removable(group)` channels go, at least `min_keep` stay, kept counts are rounded to `round_to`."""
        if not all(isinstance(count, Integral) and count >= 1 for count in (round_to, min_keep)):
            raise BudgetError(f"Expected round_to and min_keep as ints >= 1, but got {round_to!r} and {min_keep!r}.")
        size = np.array([group.size for group in structure.prunable], dtype=np.int64)
        step = np.array([_step(group, round_to) for group in structure.prunable], dtype=np.int64)
        lowest = np.maximum(
            size - np.array([removable(group) for group in structure.prunable], dtype=np.int64), min_keep
        )
        return cls(size, step, np.minimum(-(-lowest // step) * step, size))

    def fixed(self, where: np.ndarray, counts: np.ndarray) -> Lattice:
        """The same, but for the groups `where` (bool) that may have no other than `counts`."""
        return replace(self, size=np.where(where, counts, self.size), lowest=np.where(where, counts, self.lowest))

    def nearest(self, kept: np.ndarray) -> np.ndarray:
        """The allowed counts nearest to `kept`; of two equally near the larger."""
        multiple = (2 * kept + self.step) // (2 * self.step) * self.step
        last = (self.size - 1) // self.step * self.step
        return np.where(2 * kept >= last + self.size, self.size, np.clip(multiple, self.lowest, self.size))

    def below(self, counts: np.ndarray) -> np.ndarray:
        """The next smaller allowed counts, or the same where there is none."""
        smaller = (counts - 1) // self.step * self.step
        return np.where(smaller >= self.lowest, smaller, counts)

    def above(self, counts: np.ndarray) -> np.ndarray:
        """The next larger allowed counts, or the same where there is none."""
        return np.minimum((counts // self.step + 1) * self.step, self.size)

    def larger(self, group: int, count: int) -> list[int]:
        """All allowed counts of a group above `count`, rising."""
        size, step = int(self.size[group]), int(self.step[group])
        return [*range((count // step + 1) * step, size, step), *([size] if count < size else [])]


@dataclass(frozen=True, eq=False)
class Settled(Lattice):
    """A lattice without those counts at which a cost with steps is no lower than at a larger count that is left.

    `allowed` has, for each group, a sorted int64 array that ends with the group's size.
    """

    allowed: tuple[np.ndarray, ...]

    @classmethod
    def on(cls, lattice: Lattice, costs_of: Callable[[int, np.ndarray], np.ndarray]) -> Settled:
        """`costs_of(group number, counts)` is what the whole costs with each of those counts, the other groups being
        as they are; float of the same shape."""
        allowed = []
        for group, (size, step, lowest) in enumerate(zip(lattice.size, lattice.step, lattice.lowest, strict=True)):
            counts = np.unique(np.append(np.arange(lowest, size, step), size))
            allowed.append(_falling(counts, costs_of(group, counts)))
        return cls(lattice.size, lattice.step, np.array([counts[0] for counts in allowed]), tuple(allowed))

    def nearest(self, kept: np.ndarray) -> np.ndarray:
        return np.clip([_nearest(own, count) for own, count in zip(self.allowed, kept, strict=True)], *self._range)

    def below(self, counts: np.ndarray) -> np.ndarray:
        pairs = zip(self.allowed, counts, strict=True)
        smaller = np.array([own[max(np.searchsorted(own, count) - 1, 0)] for own, count in pairs])
        return np.where((smaller >= self.lowest) & (smaller < counts), smaller, counts)

    def above(self, counts: np.ndarray) -> np.ndarray:
        pairs = zip(self.allowed, counts, strict=True)
        larger = np.array([own[min(np.searchsorted(own, count, side="right"), len(own) - 1)] for own, count in pairs])
        return np.minimum(np.maximum(larger, counts), self.size)

    def larger(self, group: int, count: int) -> list[int]:
        own = self.allowed[group]
        return [int(allowed) for allowed in own[own > count]]

    @property
    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        return self.lowest, self.size


def _falling(counts: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Of rising `counts` the last, and every one from which on the cost falls below that at the next larger of those
    that are taken. By how much is judged by the group's own channels: those of a cheap group free little each."""
    freed = costs[-1] - costs.min()
    taken = [len(counts) - 1]
    if freed < _NOTHING * costs[-1]:
        return counts[taken]
    each = freed / (counts[-1] - counts[0])
    for place in range(len(counts) - 2, -1, -1):
        gone = counts[taken[-1]] - counts[place]
        if costs[taken[-1]] - costs[place] > _LEVEL * each * gone:
            taken.append(place)
    return counts[taken[::-1]]


def _nearest(allowed: np.ndarray, count: int) -> int:
    place = int(np.searchsorted(allowed, count))
    if place == len(allowed) or (place > 0 and count - allowed[place - 1] < allowed[place] - count):
        place -= 1
    return int(allowed[place])


def _step(group: Group, round_to: int) -> int:
    """The step in channels that makes widths multiples of `round_to`.

    A channel that is m elements wide in every weight (an attention head) already brings a factor of m along. Groups of
    fewer channels than a step are not rounded: no multiple of it lies in them.
    """
    widths = [piece.index.shape[1] for piece in group.slices if piece.role in ("out", "in")]
    step = round_to // math.gcd(round_to, *widths)
    return step if group.size >= step else 1
