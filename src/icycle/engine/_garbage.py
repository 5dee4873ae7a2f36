"""The garbage collector, off for a moment."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keeping_garbage"]


@contextmanager
def keeping_garbage() -> Iterator[None]:
    """Keep the garbage collector from running: it would go through all that the process holds, several times, for what
    is small (tensors without data, the modules of one copy) and nearly all still in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
