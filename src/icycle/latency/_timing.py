"""Robust timing: warm-up, many repeats, low quantiles; and several things in turn, so that noise meets them alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

__all__ = ["Timing", "interleaved", "seconds_per_call", "thread_count"]

_SHORTEST = 2e-4  # seconds that one reading should last at least, against the clock's grain
_REPEATS = (5, 25)  # readings, at least and at most
_SPENT = 0.04  # seconds after which no further reading is made, once there are enough


def seconds_per_call(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """The shortest of many readings: what else a machine does can only make a call longer."""
    run()
    start = clock()
    run()
    once = max(clock() - start, 1e-9)
    calls = max(1, math.ceil(_SHORTEST / once))
    fewest, most = _REPEATS
    readings: list[float] = []
    spent = 0.0
    while len(readings) < fewest or (len(readings) < most and spent < _SPENT):
        start = clock()
        for _ in range(calls):
            run()
        taken = clock() - start
        spent += taken
        readings.append(taken / calls)
    return min(readings)


@dataclass(frozen=True)
class Timing:
    """Seconds per call, reading by reading; those of things timed together are of the same moments."""

    readings: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.readings)

    @property
    def quartiles(self) -> tuple[float, float]:
        lower, _, upper = statistics.quantiles(self.readings, n=4, method="inclusive")
        return lower, upper

    def ratio_to(self, other: Timing) -> float:
        """This over the other's time, by the lower quartiles, which noise touches least."""
        return self.quartiles[0] / other.quartiles[0]


def interleaved(
    runs: Sequence[Callable[[], object]], clock: Callable[[], float], *, rounds: int = 40, seconds: float = 3.0
) -> list[Timing]:
    """Time all `runs` in turn, round after round, until `rounds` are done, or `seconds` are over and five are done."""
    calls = [_calls_per_reading(run, clock) for run in runs]
    readings: list[list[float]] = [[] for _ in runs]
    end = clock() + seconds
    while len(readings[0]) < rounds and (len(readings[0]) < 5 or clock() < end):
        for taken, run, repeat in zip(readings, runs, calls, strict=True):
            start = clock()
            for _ in range(repeat):
                run()
            taken.append((clock() - start) / repeat)
    return [Timing(tuple(taken)) for taken in readings]


def _calls_per_reading(run: Callable[[], object], clock: Callable[[], float]) -> int:
    for _ in range(2):
        run()
    start = clock()
    run()
    return max(1, math.ceil(5 * _SHORTEST / max(clock() - start, 1e-9)))


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Let torch use this many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
