"""Telling whether something else had the processor, or a part of it, during a reading."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

__all__ = ["Watch", "never", "others"]

Watch = Callable[[], Callable[[float], bool]]
"""Is called at the beginning of a reading; what it returns then tells, given the seconds since, whether something else
disturbed it."""

_RARE = 0.05  # seconds in which the processor may go to others once: the system's own tasks take it for microseconds
_NUMBERS, _RESULTS = np.linspace(0, 1, 16384, dtype=np.float32), np.empty(16384, dtype=np.float32)
_QUIET, _SHARED = 0.2, 1.1  # quantile of the probes that is undisturbed, and times as long as which a shared one takes

_probes: deque[float] = deque(maxlen=500)  # seconds that they took


def others() -> Callable[[float], bool]:
    """Watches for what takes the processor away from this process, or shares it."""
    before, shared = _preemptions(), _is_shared()
    return lambda seconds: shared or _preemptions() - before > seconds / _RARE or _is_shared()


def never() -> Callable[[float], bool]:
    """Nothing ever disturbs."""
    return lambda seconds: False


def _preemptions() -> int:
    """How often the system has taken the processor away from a thread of this process; 0 where it does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _is_shared() -> bool:
    """Whether the processor is slower now than it mostly was: the other half of its core may be at work for another
    machine, of which a virtual one is told nothing. (That takes up to a third of the speed, for seconds, and from wide
    and narrow networks not alike.)"""
    _probes.append(min(_probe() for _ in range(3)))
    return _probes[-1] > _SHARED * float(np.quantile(_probes, _QUIET))


def _probe() -> float:
    """Seconds that some work takes that needs nothing but the processor."""
    start = time.perf_counter()
    np.exp(_NUMBERS, out=_RESULTS)
    return time.perf_counter() - start
