"""When a run is saved: after each epoch, every few minutes, and when the process is asked to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from icycle.training._checkpoint import (
    Checkpoint,
    damaged_checkpoints,
    restore_checkpoint,
    save_checkpoint,
)
from icycle.training._parts import Parts
from icycle.training._processes import is_first, process_count, totals
from icycle.training._random import RandomState, random_state
from icycle.training._signals import require_no_stop, stop_asked

if TYPE_CHECKING:
    from icycle.training._loop import Trainer

__all__ = ["Partial", "Saver"]

# Several processes agree on whether to save; on an accelerator that waits for all the work in its queue.
_STEPS_PER_QUESTION = 16


@dataclass
class Partial:
    """What an epoch has come to so far; examples and loss in this process."""

    batches: int = 0
    examples: int = 0
    loss: torch.Tensor | float = 0.0  # summed over the examples

    def add(self, loss: torch.Tensor, examples: int, batches: int = 1) -> None:
        """Count what was trained on; `loss` is the mean of these examples."""
        self.batches += batches
        self.examples += examples
        self.loss = self.loss + loss * examples

    def summed(self) -> tuple[int, float]:
        """Examples and loss over all processes."""
        examples, loss = totals(self.examples, float(self.loss))
        return int(examples), loss


class Saver:
    """Keeps one trainer's checkpoints in a folder; without a folder it saves nothing, and stops all the same."""

    def __init__(self, trainer: Trainer, folder: Path | None, hooks: object) -> None:
        self._trainer = trainer
        self._folder = folder
        self._stateful = Parts({"hooks": hooks, **trainer.parts})
        self._accuracy: float | None = None
        self._epoch_start: RandomState = {}
        self._saved = time.monotonic()

    def restore(self) -> tuple[Partial, RandomState, float | None]:
        """Put the trainer where the newest checkpoint is; what its unfinished epoch had come to, the random state at
        that epoch's start, and the last accuracy."""
        trainer = self._trainer
        if self._folder is None:
            return Partial(), {}, None
        for path, damage in damaged_checkpoints(self._folder).items():
            trainer.recorder.write("damaged-checkpoint", path=path, damage=damage)
        found = restore_checkpoint(self._folder, trainer.model, trainer.optimizer, self._stateful)
        if found is None:
            return Partial(), {}, None
        done = found.progress
        trainer.epoch, trainer.step, self._accuracy = done.epoch, done.step, done.accuracy
        trainer.recorder.clock.add(done.seconds)
        trainer.lay_out()
        partial = Partial(done.batches, done.examples, done.loss) if is_first() else Partial(done.batches)
        return partial, found.epoch_start, done.accuracy

    def epoch_starts(self, at: RandomState) -> None:
        """Remember the random state at the start of an epoch; `at`: that of one which was begun before."""
        self._epoch_start = at or random_state()

    def step_done(self, partial: Partial) -> None:
        """Save where it is time to.

        Raises:
            RunInterruptedError: the process was asked to stop; all is saved.
        """
        queued = process_count() > 1 and next(self._trainer.model.parameters()).device.type != "cpu"
        if queued and self._trainer.step % _STEPS_PER_QUESTION:
            return
        minutes = self._trainer.settings.checkpoint_minutes
        if stop_asked(or_due=time.monotonic() - self._saved >= 60.0 * minutes):
            self._save(partial)
            require_no_stop()

    def epoch_done(self, accuracy: float) -> None:
        """Save; errors as in `step_done`."""
        self._accuracy = accuracy
        self._save(Partial())
        require_no_stop()

    def _save(self, partial: Partial) -> None:
        if self._folder is None:
            return
        trainer = self._trainer
        trainer.share_buffers()
        examples, loss = partial.summed()
        progress = Checkpoint(
            trainer.epoch,
            trainer.step,
            self._accuracy,
            trainer.recorder.clock.seconds(),
            trainer.recorder.written,
            partial.batches,
            examples,
            loss,
        )
        epoch_start = self._epoch_start if partial.batches else None
        if is_first():
            save_checkpoint(
                self._folder, progress, trainer.model, trainer.optimizer, self._stateful, epoch_start=epoch_start
            )
        self._saved = time.monotonic()
