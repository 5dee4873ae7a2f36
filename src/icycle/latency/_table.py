"""The time of one operation at any sizes, between those at which it was measured.

The times are known on a grid of sizes that suit the device. Of all others it is known which of them lack the alignment
that it wants, so that it does them another way, and how many times slower that is.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Place", "Table", "Way", "interpolated", "place_among", "places_of"]

Place = tuple[np.ndarray, np.ndarray]  # of every size: the point below it, and how near it is to the next one, 0..1


@dataclass(frozen=True, eq=False)
class Way:
    """How a device does it where some free sizes lack their alignment: for each free size the place on the grid of
    every size from 0 on, blocks being filled; the logarithm of how many times slower it is, at small and at large
    sizes; and where every size lies between these."""

    places: tuple[Place, ...]
    slower: np.ndarray
    between: tuple[Place, ...]

    def expected(self, seconds: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Seconds, (n,), at `sizes`, (n, free sizes), from those on the grid, if it was not slower."""
        return np.maximum(interpolated(seconds, places_of(self.places, sizes)), 0)

    def factor(self, sizes: np.ndarray) -> np.ndarray:
        """How many times slower it is, (n,), at `sizes`, (n, free sizes)."""
        return np.asarray(np.exp(interpolated(self.slower, places_of(self.between, sizes))))


@dataclass(frozen=True, eq=False)
class Table:
    """Seconds on a grid of sizes; `lacks[k]` says of every value of free size k how much it lacks of the alignment, 0
    to 1, and `ways` has how the device does it for each combination of sizes that lack all of it and none."""

    seconds: np.ndarray
    lacks: tuple[np.ndarray, ...]
    ways: Mapping[tuple[bool, ...], Way]

    def __call__(self, sizes: np.ndarray) -> np.ndarray:
        """Seconds, (n,), at `sizes`, (n, free sizes)."""
        lacking = self._lacking(sizes)
        total = np.zeros(len(sizes))
        for which, way in self.ways.items():
            here = ((lacking > 0) == which).all(axis=1)
            if here.any():
                total[here] = way.expected(self.seconds, sizes[here]) * self._factor(sizes[here], lacking[here])
        return total

    def _factor(self, sizes: np.ndarray, lacking: np.ndarray) -> np.ndarray:
        """How many times slower they are: multilinear between the ways."""
        total = np.zeros(len(sizes))
        for which, way in self.ways.items():
            share = np.where(which, lacking, 1 - lacking).prod(axis=1)
            if share.any():
                total += share * way.factor(sizes)
        return total

    def unaligned(self, sizes: np.ndarray) -> np.ndarray:
        """Whether any of `sizes`, (n, free sizes), lacks its alignment; (n,) bool."""
        return np.asarray((self._lacking(sizes) > 0).any(axis=1))

    def _lacking(self, sizes: np.ndarray) -> np.ndarray:
        return np.stack([own[column] for own, column in zip(self.lacks, sizes.T, strict=True)], 1)


def place_among(points: Sequence[float] | np.ndarray, sizes: np.ndarray, inside: bool = False) -> Place:
    """Where sizes lie among the points: those beyond the ends on the line through the last two, or (`inside`) at the
    ends."""
    points = np.asarray(points)
    if len(points) == 1:
        return np.zeros(len(sizes), dtype=np.int64), np.zeros(len(sizes))
    lower = np.clip(np.searchsorted(points, sizes, side="right") - 1, 0, len(points) - 2)
    weight = (sizes - points[lower]) / (points[lower + 1] - points[lower])
    return lower, np.clip(weight, 0, 1) if inside else weight


def places_of(places: Sequence[Place], sizes: np.ndarray) -> list[Place]:
    """The places of these sizes, (n, free sizes)."""
    return [(lower[column], weight[column]) for (lower, weight), column in zip(places, sizes.T, strict=True)]


def interpolated(values: np.ndarray, places: Sequence[Place]) -> np.ndarray:
    """Multilinear between the values at the corners."""
    total = np.zeros(len(places[0][0]))
    for corner in itertools.product((0, 1), repeat=len(places)):
        share, place = np.ones(len(total)), []
        for side, (lower, weight), length in zip(corner, places, values.shape, strict=True):
            share = share * (weight if side else 1 - weight)
            place.append(np.minimum(lower + side, length - 1))
        total += share * values[tuple(place)]
    return total
