"""At which sizes an operation is measured, and what follows for all others.

Devices work in blocks: 33 channels often take as long as 48 or 64. And they have several ways to do the same thing: one
for sizes that are multiples of 4, say, and a slower one for all others, which may have no blocks. So each free size is
measured at a few multiples of a large power of two, where blocks are full, with more of them where the time jumps; and
once just below such a multiple, at distances 1, 2, 4, 8, ..., from which follow the block and the alignment that the
device wants. How much slower sizes without it are depends on how large they are, and on which of the sizes lack it:
that is measured for each combination, at small and at large sizes, between them where these differ much, and at all
points of an operation that has only one free size. Sizes that are multiples of a smaller power of two lack less of the
alignment than odd ones: how much less is measured in the middle.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from icycle.latency._table import Place, Table, Way, interpolated, place_among, places_of

__all__ = ["measured_table", "rough_table"]

_SHARES = (0.25, 0.5, 0.75)  # of a size, at which it is measured beside the whole
_COARSE_SHARES = (0.25, 0.5)  # where an operation has more than two free sizes
_ALIGNED = (32, 16, 8, 4, 2)  # the largest of which a size has at least four is taken for aligned
_JUMP = 0.06  # how far (log) a time may be from the line between its neighbours' before more sizes are measured
_FINE = 16  # units between these sizes, at least
_POINTS = 8  # along one free size, at the most
_STEEP = 0.25  # how far (log) apart what sizes without alignment cost may be, before it is measured between
_GAIN = 1.5e-3  # squared log error that lacking an alignment must explain: a reading that is 4 % off

Measure = Callable[[tuple[int, ...]], float]


def measured_table(full: Sequence[int], units: Sequence[int], measure: Measure) -> Table:
    """Measure an operation whose free sizes are `full`, each a multiple of its unit at any width; `measure` gives
    seconds at some sizes."""
    grid = _Grid(full, units, measure, _SHARES if len(full) <= 2 else _COARSE_SHARES)
    if len(full) <= 2:
        for number in range(len(full)):
            grid.refine(number)
    return grid.table([grid.block(number) for number in range(len(full))])


def rough_table(full: Sequence[int], units: Sequence[int], measure: Measure) -> Table:
    """The same from half and whole sizes alone, for an operation that takes next to no time."""
    return _Grid(full, units, measure, (0.5,)).table([_Block(unit, unit) for unit in units])


@dataclass(frozen=True)
class _Block:
    """Sizes that are multiples of `aligned`, itself a power of two times the unit, are rounded up to multiples of
    `block`, which is a multiple of it."""

    block: int
    aligned: int

    def filled(self, sizes: np.ndarray, all_of_them: bool) -> np.ndarray:
        """Rounded up; those without the alignment, too, if `all_of_them`."""
        rounded = -(-sizes // self.block) * self.block
        return rounded if all_of_them else np.where(sizes % self.aligned, sizes, rounded)


class _Grid:
    """Measurements at aligned sizes, and between."""

    def __init__(self, full: Sequence[int], units: Sequence[int], measure: Measure, shares: Sequence[float]) -> None:
        self._measure = measure
        self._units = units
        self._steps = [_aligned(size, unit) for size, unit in zip(full, units, strict=True)]
        self._points = [_points(size, step, shares) for size, step in zip(full, self._steps, strict=True)]
        self._known: dict[tuple[int, ...], float] = {}

    def refine(self, number: int) -> None:
        """More points of one free size, where the line between two is far from what is measured there."""
        step = min(self._steps[number], _FINE * self._units[number])
        pairs = list(itertools.pairwise(self._points[number].tolist()))
        while pairs and len(self._points[number]) < _POINTS:
            low, high = pairs.pop(0)
            middle = (low + high) // 2 // step * step
            if middle <= low:
                continue
            line = np.interp(middle, (low, high), (self._along(number, low), self._along(number, high)))
            if abs(np.log(self._along(number, middle) / line)) > _JUMP:
                self._points[number] = np.sort(np.append(self._points[number], middle))
                pairs += [(low, middle), (middle, high)]

    def block(self, number: int) -> _Block:
        """What fits best the times at a few distances from an aligned size: aligned sizes must lie on the curve, the
        others above it."""
        unit, step, size = self._units[number], self._steps[number], self._centre(number)
        powers = [unit << power for power in range((step // unit).bit_length())]
        sizes = [size - distance for distance in powers[:-1]]

        def misfit(candidate: _Block) -> float:
            excess = [self._excess(number, candidate, own, fills=False) for own in sizes]
            off = [
                min(above, 0.0) if own % candidate.aligned else above for own, above in zip(sizes, excess, strict=True)
            ]
            return sum(value**2 for value in off) + _GAIN * powers.index(candidate.aligned)

        candidates = [_Block(block, aligned) for block in powers for aligned in powers if aligned <= block]
        return min(candidates, key=lambda one: (round(misfit(one), 4), one.aligned, one.block))

    def table(self, blocks: Sequence[_Block]) -> Table:
        """With these blocks; measures what it costs to lack an alignment."""
        seconds = self._seconds(self._points)
        lacks = tuple(self._lacks(number, block) for number, block in enumerate(blocks))
        present = [(False, True) if own.any() else (False,) for own in lacks]
        return Table(
            seconds, lacks, {which: self._way(which, blocks, seconds) for which in itertools.product(*present)}
        )

    def _lacks(self, number: int, block: _Block) -> np.ndarray:
        """Of every value of this free size how much it lacks of its alignment, 0 to 1: what multiples of a smaller
        power of two cost, against what odd ones do, at both ends of a block."""
        unit = self._units[number]
        fills = self._fills(number, block, [k == number for k in range(len(self._points))])

        def more(multiple: int) -> float:
            sizes = self._at_ends(number, block, multiple)
            return statistics.fmean(math.expm1(self._excess(number, block, size, fills)) for size in sizes)

        sizes = _up_to(self._points[number])
        lacks = np.zeros(len(sizes))
        for multiple in self._unaligned(number, block):
            among = (sizes % multiple == 0) & (sizes % block.aligned != 0)
            lacks[among] = 1.0 if multiple == unit else np.clip(more(multiple) / max(more(unit), 1e-9), 0, 1)
        return lacks

    def _unaligned(self, number: int, block: _Block) -> list[int]:
        """The powers of two, times the unit, whose multiples need not have the alignment."""
        unit = self._units[number]
        return [unit << power for power in range((block.aligned // unit).bit_length() - 1)]

    def _at_ends(self, number: int, block: _Block, distance: int) -> tuple[int, int]:
        """Sizes so far from both ends of a block."""
        high = self._centre(number)
        return high - block.block + distance, high - distance

    def _excess(self, number: int, block: _Block, size: int, fills: bool) -> float:
        """The logarithm of how many times longer it takes than on the curve through the points."""
        points = self._points[number]
        curve = np.array([self._along(number, int(point)) for point in points])
        expected = _on_curve(int(block.filled(np.array(size), fills)), points, curve)
        return float(np.log(self._along(number, size) / expected))

    def _way(self, which: tuple[bool, ...], blocks: Sequence[_Block], seconds: np.ndarray) -> Way:
        """How the device does it where these sizes lack their alignment."""
        fills = [not any(which) or self._fills(number, block, which) for number, block in enumerate(blocks)]
        places = tuple(_filled(*own) for own in zip(self._points, blocks, fills, strict=True))
        if not any(which):
            return Way(places, np.zeros([1] * len(which)), tuple(place_among([1], _up_to(own)) for own in self._points))
        known = [self._ends(number) for number in range(len(which))]
        slower = self._slower(which, known, seconds, places)
        steep = [np.ptp(slower, axis=number).max() > _STEEP for number in range(len(which))]
        if any(steep):
            known = [self._with_middle(own, number) if steep[number] else own for number, own in enumerate(known)]
            slower = self._slower(which, known, seconds, places)
        between = tuple(
            place_among(np.log(own), np.log(np.maximum(_up_to(points), 1)), inside=True)
            for own, points in zip(known, self._points, strict=True)
        )
        return Way(places, slower, between)

    def _slower(
        self, which: tuple[bool, ...], points: Sequence[Sequence[int]], seconds: np.ndarray, places: Sequence[Place]
    ) -> np.ndarray:
        """The logarithm of how many times slower sizes just below these points are, where `which` lack alignment."""
        taken = [np.array(own) - unit * lack for own, unit, lack in zip(points, self._units, which, strict=True)]
        expected = interpolated(seconds, places_of(places, np.array(list(itertools.product(*taken)))))
        found = self._seconds(taken)
        return np.asarray(np.log(found / np.maximum(expected.reshape(found.shape), 1e-9)))

    def _with_middle(self, known: Sequence[int], number: int) -> list[int]:
        """And the point that is nearest to their geometric mean."""
        middle = math.sqrt(known[0] * known[-1])
        return sorted({*known, min(self._points[number].tolist(), key=lambda point: abs(math.log(point / middle)))})

    def _fills(self, number: int, block: _Block, which: Sequence[bool]) -> bool:
        """Whether blocks of this free size are filled where these lack their alignment, too: whether it takes about as
        long at one end of a block as at the other."""
        if which[number]:
            ends = [self._at_ends(number, block, multiple) for multiple in self._unaligned(number, block)]
        else:
            ends = [(self._at_ends(number, block, block.aligned)[0], self._centre(number))]
        others = [self._centre(k) - unit * lack for k, (unit, lack) in enumerate(zip(self._units, which, strict=True))]

        def growth(of: Callable[[int], float]) -> float:
            return sum(math.log(of(high) / of(low)) for low, high in ends)

        return growth(lambda size: self._at((*others[:number], size, *others[number + 1 :]))) < growth(float) / 2

    def _ends(self, number: int) -> list[int]:
        """Where it is measured what sizes without alignment cost: all points of the only size; of two, a small and a
        large one."""
        own = self._points[number].tolist()
        if len(self._points) == 1:
            return [point for point in own if point > self._units[number]]
        if len(self._points) > 2:
            return [self._centre(number)]
        return sorted({own[0] if own[0] > self._units[number] else own[min(1, len(own) - 1)], own[-1]})

    def _centre(self, number: int) -> int:
        own = self._points[number]
        return int(own[len(own) // 2 - (len(own) > 2)])

    def _along(self, number: int, size: int) -> float:
        """With the other free sizes in the middle."""
        return self._at(tuple(size if k == number else self._centre(k) for k in range(len(self._points))))

    def _seconds(self, points: Sequence[np.ndarray]) -> np.ndarray:
        taken = [self._at(sizes) for sizes in itertools.product(*(own.tolist() for own in points))]
        return np.array(taken).reshape([len(own) for own in points])

    def _at(self, sizes: tuple[int, ...]) -> float:
        if sizes not in self._known:
            self._known[sizes] = self._measure(sizes)
        return self._known[sizes]


def _aligned(size: int, unit: int) -> int:
    """The step between sizes that are taken for aligned: the unit times a power of two."""
    return unit * next((step for step in _ALIGNED if size // unit >= 4 * step), 1)


def _points(size: int, step: int, shares: Sequence[float]) -> np.ndarray:
    """A few multiples of `step`, rising, the last at or above `size`."""
    last = -(-size // step)
    return np.array(sorted({max(1, round(share * last)) * step for share in shares} | {last * step}))


def _up_to(points: np.ndarray) -> np.ndarray:
    """Every size up to the largest point."""
    return np.arange(points[-1] + 1)


def _filled(points: np.ndarray, block: _Block, fills: bool) -> Place:
    sizes = _up_to(points)
    return place_among(points, np.minimum(-(-sizes // block.block) * block.block, points[-1]) if fills else sizes)


def _on_curve(size: int, points: np.ndarray, seconds: np.ndarray) -> float:
    """Between the points; below the first one along the line through the first two."""
    if size >= points[0] or len(points) == 1:
        return float(np.interp(size, points, seconds))
    slope = (seconds[1] - seconds[0]) / (points[1] - points[0])
    return float(max(seconds[0] + slope * (size - points[0]), seconds[0] * size / points[0]))
