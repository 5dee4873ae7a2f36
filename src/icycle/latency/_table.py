"""The time of one operation at any sizes, from measurements at a few of them.

Devices work in blocks: 33 channels often take as long as 48 or 64, or longer. So each free size is measured at a few
multiples of a large power of two, where blocks are full, and between them just below one such multiple, at distances
1, 2, 4, 8, ... From these follows the block of the device, the smallest power of two for which a size takes as long as
the next multiple of it, and by what factor sizes that are no multiples are slower still.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Table", "measured_table"]

_SHARES = (0.25, 0.5, 0.75)  # of a size, at which it is measured beside the whole
_COARSE_SHARES = (0.25, 0.5)  # where an operation has more than two free sizes
_ALIGNED = (32, 16, 8, 4, 2)  # the largest of which a size has at least four is taken for aligned
_NOISE = 0.03  # factors that differ from 1 by less are none

Measure = Callable[[tuple[int, ...]], float]


@dataclass(frozen=True, eq=False)
class Table:
    """Seconds on a grid of sizes: `points[k]` are the grid's values of free size k, int64, rising; `seconds` has their
    shape. `lower[k]`, `weight[k]` and `factor[k]` say for every size from 0 to the whole between which points it lies,
    how near to the upper one, and how many times longer it takes for not being aligned."""

    points: tuple[np.ndarray, ...]
    seconds: np.ndarray
    lower: tuple[np.ndarray, ...]
    weight: tuple[np.ndarray, ...]
    factor: tuple[np.ndarray, ...]

    def __call__(self, sizes: np.ndarray) -> np.ndarray:
        """Seconds, (n,), at `sizes`, (n, free sizes)."""
        total = np.zeros(len(sizes))
        for corner in itertools.product((0, 1), repeat=len(self.points)):
            share, place = np.ones(len(sizes)), []
            for side, column, points, lower, weight in zip(
                corner, sizes.T, self.points, self.lower, self.weight, strict=True
            ):
                share = share * (weight[column] if side else 1 - weight[column])
                place.append(np.minimum(lower[column] + side, len(points) - 1))
            total += share * self.seconds[tuple(place)]
        for column, factor in zip(sizes.T, self.factor, strict=True):
            total *= factor[column]
        return np.maximum(total, 0)


def measured_table(full: Sequence[int], units: Sequence[int], measure: Measure) -> Table:
    """Measure an operation whose free sizes are `full`, each a multiple of its unit at any width; `measure` gives
    seconds at some sizes."""
    steps = [_aligned(size, unit) for size, unit in zip(full, units, strict=True)]
    shares = _SHARES if len(full) <= 2 else _COARSE_SHARES
    points = tuple(_grid(size, step, shares) for size, step in zip(full, steps, strict=True))
    seconds = np.array([measure(sizes) for sizes in itertools.product(*(own.tolist() for own in points))])
    seconds = seconds.reshape([len(own) for own in points])
    lower, weight, factor = [], [], []
    for number, (own, step, unit) in enumerate(zip(points, steps, units, strict=True)):
        block, slower = _block(number, points, seconds, step, unit, measure)
        sizes = np.arange(own[-1] + 1)
        rounded = np.minimum(-(-sizes // block) * block, own[-1])
        lower.append(np.clip(np.searchsorted(own, rounded, side="right") - 1, 0, max(len(own) - 2, 0)))
        gap = own[lower[-1] + 1] - own[lower[-1]] if len(own) > 1 else 1
        weight.append((rounded - own[lower[-1]]) / gap if len(own) > 1 else np.zeros(len(sizes)))
        factor.append(_factors(sizes, unit, slower))
    return Table(points, seconds, tuple(lower), tuple(weight), tuple(factor))


def _aligned(size: int, unit: int) -> int:
    """The step between sizes that are taken for aligned: the unit times a power of two."""
    return unit * next((step for step in _ALIGNED if size // unit >= 4 * step), 1)


def _grid(size: int, step: int, shares: Sequence[float]) -> np.ndarray:
    """A few multiples of `step`, rising, the last at or above `size`."""
    last = -(-size // step)
    return np.array(sorted({max(1, round(share * last)) * step for share in shares} | {last * step}))


def _block(
    number: int, points: Sequence[np.ndarray], seconds: np.ndarray, step: int, unit: int, measure: Measure
) -> tuple[int, dict[int, float]]:
    """The device's block along one free size, and distance from an aligned size -> how many times slower it is."""
    own = points[number]
    centre = [len(other) // 2 - (len(other) > 2) for other in points]
    along = seconds[tuple(slice(None) if k == number else place for k, place in enumerate(centre))]
    size = int(own[centre[number]])
    distances = [unit << power for power in range((step // unit).bit_length() - 1)]
    found = {}
    for distance in distances:
        sizes = [int(other[place]) for other, place in zip(points, centre, strict=True)]
        sizes[number] = size - distance
        found[distance] = measure(tuple(sizes))

    def excess(block: int) -> dict[int, float]:
        rounded = {distance: -(-(size - distance) // block) * block for distance in distances}
        return {
            distance: float(np.log(found[distance] / _interpolated(rounded[distance], own, along)))
            for distance in distances
        }

    def misfit(block: int) -> float:
        """Multiples of the block must lie on the curve; the others above it, all by the same factor."""
        values = excess(block)
        off = [value for distance, value in values.items() if distance % block]
        level = max(float(np.mean(off)), 0.0) if off else 0.0
        return sum((value - (level if distance % block else 0.0)) ** 2 for distance, value in values.items())

    block = min((*distances, step), key=lambda candidate: (round(misfit(candidate), 4), candidate))
    return block, {
        distance: float(np.exp(value)) if abs(value) > _NOISE else 1.0 for distance, value in excess(block).items()
    }


def _interpolated(size: int, points: np.ndarray, seconds: np.ndarray) -> float:
    """Between the points; below the first one along the line through the first two."""
    if size >= points[0] or len(points) == 1:
        return float(np.interp(size, points, seconds))
    slope = (seconds[1] - seconds[0]) / (points[1] - points[0])
    return float(max(seconds[0] + slope * (size - points[0]), seconds[0] * size / points[0]))


def _factors(sizes: np.ndarray, unit: int, slower: dict[int, float]) -> np.ndarray:
    """For every size the factor of its alignment: of the largest power of two units that divides it."""
    factors = np.ones(len(sizes))
    for distance, factor in slower.items():
        factors[(sizes % distance == 0) & (sizes % (2 * distance) != 0)] = factor
    return factors
