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

from icycle.latency._watch import Watch, never

__all__ = ["USUAL", "Timing", "interleaved", "keep_memory", "seconds_per_call", "thread_count"]

USUAL = 0.25  # the quantile of an operation's readings that counts

_SHORTEST = 2e-4  # seconds that one reading should last at least, against the clock's grain
_REPEATS = (2, 10)  # readings, at least and at most
_LOW = 0.1  # the quantile of the readings by which two things that are timed in turn are compared
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
_SPENT = 0.008  # seconds after which no further reading is made, once there are enough
_PATIENCE = 10  # times as long, and no more, it may take to get readings that nothing has disturbed
_ROUNDS = 5  # of things timed in turn, at least
_WAITING = 3  # times as long as asked for, and no more, things are timed in turn to get so many undisturbed rounds
_CACHED = 0.05  # seconds from which on filling the caches (tens of megabytes, some milliseconds) hardly counts


def seconds_per_call(run: Callable[[], object], clock: Callable[[], float], watch: Watch = never) -> float:
    """The lower quartile of many readings: what else a machine does makes a call longer, but so does what lies where in
    memory, which differs from call to call; the shortest reading is luck that no network has with all its operations.
    (torch multiplying with odd widths on a machine: 3.6 ms at best, 6.5 in the median.)

    A reading that something else disturbed does not count, unless there are hardly any others.
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
        disturbed, start = watch(), clock()
        for _ in range(calls):
            run()
        taken = clock() - start
        spent += taken
        shortest = min(shortest, taken / calls)
        if not disturbed(taken):
            undisturbed.append(taken / calls)
        elif spent > _PATIENCE * max(_SPENT, taken):
            break
    return float(np.quantile(undisturbed, USUAL)) if undisturbed else shortest


@dataclass(frozen=True)
class Timing:
    """Seconds per call, reading by reading; those of things timed together are of the same moments. `disturbed` is the
    share of readings, 0..1, that something else disturbed."""

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
        """This over the other's time, by the readings that a tenth is below, which noise touches least. (Of a handful
        the shortest is luck: with neighbours on the machine the ratio of these varies by 3 % from one handful to the
        next, this one by 2.)"""
        return float(np.quantile(self.readings, _LOW) / np.quantile(other.readings, _LOW))


def interleaved(
    runs: Sequence[Callable[[], object]],
    clock: Callable[[], float],
    watch: Watch = never,
    *,
    rounds: int = 40,
    seconds: float = 3.0,
) -> list[Timing]:
    """Time all `runs` in turn, round after round, until `rounds` are done, or `seconds` are over and five are done.

    Before its reading each runs once more, so that it finds its own weights in the processor's caches, and not those of
    the one before. Rounds that something else disturbed do not count, unless, after three times the `seconds`, that
    leaves fewer than five.
    """
    once = [_seconds_once(run, clock) for run in runs]
    calls = [max(1, math.ceil(5 * _SHORTEST / taken)) for taken in once]
    has_caches = [len(runs) == 1 or taken > _CACHED for taken in once]
    undisturbed: list[list[float]] = []
    doubtful: list[list[float]] = []
    begin = clock()

    def is_enough() -> bool:
        allowed = seconds if len(undisturbed) >= _ROUNDS else _WAITING * seconds
        is_over = clock() - begin >= allowed and len(undisturbed) + len(doubtful) >= _ROUNDS
        return is_over or len(undisturbed) >= rounds

    while not is_enough():
        disturbed, before, taken = watch(), clock(), []
        for run, repeat, ready in zip(runs, calls, has_caches, strict=True):
            if not ready:
                run()
            start = clock()
            for _ in range(repeat):
                run()
            taken.append((clock() - start) / repeat)
        (doubtful if disturbed(clock() - before) else undisturbed).append(taken)
    used = undisturbed if len(undisturbed) >= _ROUNDS else undisturbed + doubtful
    share = len(doubtful) / (len(doubtful) + len(undisturbed))
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
