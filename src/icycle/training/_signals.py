"""Schedulers announce that they will end a process: SIGTERM, or SIGUSR1 where that was agreed. A run then stops tidily.

The handler only takes a note; whoever trains looks at it where everything can be saved.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from icycle.errors import RunInterruptedError

__all__ = ["require_no_stop", "stop_asked", "stoppable"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
_received: list[int] = []


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block SIGTERM and SIGUSR1 are noted, and end nothing by themselves; outside the main thread, which
    alone may handle signals, they do as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def stop_asked() -> bool:
    """Has the process been asked to stop?"""
    return bool(_received)


def require_no_stop() -> None:
    """Raises RunInterruptedError once the process has been asked to stop."""
    if _received:
        raise RunInterruptedError(f"Stopped by {signal.Signals(_received[0]).name}")


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(number)
