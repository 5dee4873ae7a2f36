"""Schedulers announce that they will end a process: SIGTERM, or SIGUSR1 where that was agreed. A run then stops tidily.

The handler only takes a note; whoever trains looks at it where everything can be saved. Of several processes that train
together it may reach one alone: they look at the same moments, and all stop.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from icycle.errors import RunInterruptedError
from icycle.training._processes import largest

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


def stop_asked(or_due: bool = False) -> bool:
    """Has this process, or one that trains with it, been asked to stop (`or_due` in one of them)? All must ask."""
    number, due = largest(_received[0] if _received else 0, or_due)
    if number and not _received:
        _received.append(int(number))
    return bool(number or due)


def require_no_stop() -> None:
    """Raises RunInterruptedError once this process or one that trains with it was asked to stop; all must ask."""
    if stop_asked():
        raise RunInterruptedError(f"Stopped by {signal.Signals(_received[0]).name}")


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(number)
