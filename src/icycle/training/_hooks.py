"""What a method does inside the training loop."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Hooks", "NoHooks"]


class Hooks(Protocol):
    """What a method does inside the loop; `OneCycle` has exactly these two.

    Training does not stop early as long as a property `settled` of theirs is false: channels still have to go.
    """

    def start_epoch(self, epoch: int) -> None: ...

    def after_step(self) -> None: ...


class NoHooks:
    """Hooks that do nothing."""

    def start_epoch(self, epoch: int) -> None:
        return

    def after_step(self) -> None:
        return
