"""Where a run stands, and what it is about: plumbing of methods that live inside a user's loop."""

from __future__ import annotations

from numbers import Integral

import torch
from torch.nn.parallel import DistributedDataParallel

from icycle.errors import TrainingError
from icycle.probing import inside
from icycle.training import DataParallel

__all__ = ["RunClock", "wrappers_of"]

_LONGEST = 1.5  # an epoch, in the steps that it should have


class RunClock:
    """How far the run has come."""

    def __init__(self, epochs: int, steps_per_epoch: int | None) -> None:
        given = (epochs,) if steps_per_epoch is None else (epochs, steps_per_epoch)
        if not all(isinstance(count, Integral) and count >= 1 for count in given):
            raise TrainingError(
                f"Expected epochs and steps_per_epoch as ints >= 1, but got {epochs!r} and {steps_per_epoch!r}."
            )
        if epochs == 1 and steps_per_epoch is None:
            raise TrainingError("A run of one epoch cannot learn its steps_per_epoch in time; pass it.")
        self._epochs = epochs
        self._learns = steps_per_epoch is None
        self.steps_per_epoch = steps_per_epoch
        self.epoch = 0
        self.steps = 0  # in this epoch
        self._started = False

    def start_epoch(self, epoch: int) -> None:
        if not isinstance(epoch, Integral) or epoch < 0:
            raise TrainingError(f"Expected the epoch that begins as an int >= 0, but got {epoch!r}.")
        if self._learns and self.steps and epoch > self.epoch:  # not where a resumed run begins an epoch again
            self.steps_per_epoch = self.steps
        self.epoch, self.steps, self._started = epoch, 0, True

    def go_on(self, epoch: int, steps: int) -> None:
        """Be where an interrupted run was."""
        self.epoch, self.steps, self._started = epoch, steps, True

    def step(self) -> None:
        """Count a step; TrainingError where epochs go by that nobody tells of, and with them the removal's time."""
        self.steps += 1
        if not self._started:
            raise TrainingError("Expected start_epoch(epoch) before the first step; call it as each epoch begins.")
        if self.steps_per_epoch and self.steps > _LONGEST * self.steps_per_epoch:
            raise TrainingError(
                f"Expected some {self.steps_per_epoch} steps in an epoch, but this is step {self.steps} of epoch "
                f"{self.epoch}; call start_epoch as each epoch begins, and after_step once for each step of the "
                "optimizer, or pass the steps_per_epoch that there are."
            )

    @property
    def progress(self) -> float:
        """The share of the run that is done, 0..1."""
        share = min(self.steps / self.steps_per_epoch, 1.0) if self.steps_per_epoch else 0.0
        return min((self.epoch + share) / self._epochs, 1.0)


def wrappers_of(model: torch.nn.Module) -> tuple[DataParallel, ...]:
    """The wrappers among those that have to be built anew when the module inside has lost channels."""
    inner = inside(model)
    if inner is None:
        return ()
    own = (DataParallel(model),) if isinstance(model, DistributedDataParallel) else ()
    return own + wrappers_of(inner)
