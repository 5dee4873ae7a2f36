"""Robust timing: warm-up, many repeats, low quantiles; and several things in turn, so that noise meets them alike."""

from __future__ import annotations

import ctypes
import functools
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Timing", "interleaved", "keep_memory", "never", "preemptions", "seconds_per_call", "thread_count"]

_SHORTEST = 2e-4  # seconds that one reading should last at least, against the clock's grain
_REPEATS = (4, 15)  # readings, at least and at most
_USUAL = 0.25  # the quantile of the readings that counts
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
_SPENT = 0.015  # seconds after which no further reading is made, once there are enough
_PATIENCE = 10  # times as long, and no more, it may take to get readings that nothing has disturbed
_ROUNDS = 5  # of things timed in turn, at least
_CACHED = 0.05  # seconds from which on filling the caches (tens of megabytes, some milliseconds) hardly counts


def preemptions() -> int:
    """How often the system has taken the processor away from a thread of this process; 0 where it does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def never() -> int:
    """Nothing ever disturbs."""
    return 0


def seconds_per_call(
    run: Callable[[], object], clock: Callable[[], float], disturbances: Callable[[], int] = never
) -> float:
    """The lower quartile of many readings: what else a machine does makes a call longer, but so does what lies where in
    memory, which differs from call to call; the shortest reading is luck that no network has with all its operations.
    (torch multiplying with odd widths on a machine: 3.6 ms at best, 6.5 in the median.)

    A reading during which `disturbances` grew does not count, unless there are hardly any others.
    """
    run()
    start = clock()
    run()
    once = max(clock() - start, 1e-9)
    calls = max(1, math.ceil(_SHORTEST / once))
    fewest, most = _REPEATS
    undisturbed: list[float] = []
    shortest, spent = once, 0.0
    while len(undisturbed) < fewest or (len(undisturbed) < most and spent < _SPENT):
        before, start = disturbances(), clock()
        for _ in range(calls):
            run()
        taken = clock() - start
        spent += taken
        shortest = min(shortest, taken / calls)
        if disturbances() == before:
            undisturbed.append(taken / calls)
        elif spent > _PATIENCE * max(_SPENT, taken):
            break
    return float(np.quantile(undisturbed, _USUAL)) if undisturbed else shortest


@dataclass(frozen=True)
class Timing:
    """Seconds per call, reading by reading; those of things timed together are of the same moments. `disturbed` is the
    share of readings, 0..1, during which the system took the processor away."""

    readings: tuple[float, ...]
    disturbed: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.readings)

    @property
    def quartiles(self) -> tuple[float, float]:
        lower, _, upper = statistics.quantiles(self.readings, n=4, method="inclusive")
        return lower, upper

    def ratio_to(self, other: Timing) -> float:
        """This over the other's time, by the fastest tenth of the readings, which noise touches least."""
        return self._fastest / other._fastest

    @property
    def _fastest(self) -> float:
        return statistics.fmean(sorted(self.readings)[: max(1, len(self.readings) // 10)])


def interleaved(
    runs: Sequence[Callable[[], object]],
    clock: Callable[[], float],
    disturbances: Callable[[], int] = never,
    *,
    rounds: int = 40,
    seconds: float = 3.0,
) -> list[Timing]:
    """Time all `runs` in turn, round after round, until `rounds` are done, or `seconds` are over and five are done.

    Before its reading each runs once more, so that it finds its own weights in the processor's caches, and not those of
    the one before. Rounds during which `disturbances` grew do not count, unless that leaves fewer than five.
    """
    once = [_seconds_once(run, clock) for run in runs]
    calls = [max(1, math.ceil(5 * _SHORTEST / taken)) for taken in once]
    has_caches = [len(runs) == 1 or taken > _CACHED for taken in once]
    undisturbed: list[list[float]] = []
    others: list[list[float]] = []
    end = clock() + seconds
    while len(undisturbed) < rounds and (len(undisturbed) + len(others) < _ROUNDS or clock() < end):
        before, taken = disturbances(), []
        for run, repeat, ready in zip(runs, calls, has_caches, strict=True):
            if not ready:
                run()
            start = clock()
            for _ in range(repeat):
                run()
            taken.append((clock() - start) / repeat)
        (undisturbed if disturbances() == before else others).append(taken)
    used = undisturbed if len(undisturbed) >= _ROUNDS else undisturbed + others
    share = len(others) / (len(others) + len(undisturbed))
    return [Timing(tuple(readings), share) for readings in zip(*used, strict=True)]


def _seconds_once(run: Callable[[], object], clock: Callable[[], float]) -> float:
    for _ in range(2):
        run()
    start = clock()
    run()
    return max(clock() - start, 1e-9)


@functools.cache
def keep_memory() -> None:
    """From now on, freed memory stays with the process, as it does with the allocators that servers use.

    The C library gives large blocks back to the system and asks for them again at the next call, and the faults that
    follow may take twice as long as the work; whether it does depends on what ran before. (MobileNetV2 on 64 images and
    two cores: 63 ms with memory kept, 83 to 190 ms without.) Nothing is done where the C library is not glibc.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(_TRIM_THRESHOLD, 2**31 - 1)
        set_option(_MMAP_THRESHOLD, 2**30)


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Let torch use this many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
