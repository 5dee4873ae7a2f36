"""Changes of values that are taken back where a later one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["undoing"]


@contextmanager
def undoing() -> Iterator[list[Callable[[], None]]]:
    """A list for what takes each change back; where the body raises, all of it is taken back, the last change first."""
    undo: list[Callable[[], None]] = []
    try:
        yield undo
    except BaseException:
        for step in reversed(undo):
            step()
        raise
