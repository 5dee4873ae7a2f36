"""How a command ends that was interrupted, and can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from icycle.errors import DataError, RunInterruptedError

if TYPE_CHECKING:
    from rich.console import Console

    from icycle.recipes import RunFolder

__all__ = ["interruptible", "resumable"]

_STOPPED = 75  # "a temporary failure: try again" (EX_TEMPFAIL of sysexits.h)


@contextmanager
def interruptible(console: Console, advice: Callable[[], str]) -> Iterator[None]:
    """Say how to go on where the block is interrupted: by hand, which is exit code 130, or by SIGTERM or SIGUSR1, which
    is 75. What there is to say may depend on how far it came."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"Interrupted. {advice()}", soft_wrap=True, markup=False)
        raise typer.Exit(130) from None
    except RunInterruptedError as stop:
        console.print(f"{stop}; all is saved. {advice()}", soft_wrap=True, markup=False)
        raise typer.Exit(_STOPPED) from None


@contextmanager
def resumable(console: Console, folder: RunFolder) -> Iterator[None]:
    """`interruptible`, by the folder's own command; data that cannot be read can be mended, and says so, too."""
    try:
        with interruptible(console, lambda: f"To go on: {folder.command}"):
            yield
    except DataError as error:
        if not folder.checkpoint.exists():  # nothing is done yet
            raise
        raise DataError(f"{error}. Then go on: {folder.command}") from error
