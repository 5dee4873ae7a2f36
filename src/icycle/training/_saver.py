"""When a run is saved: after each epoch, every few minutes, and when the process is asked to stop."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from icycle.training._checkpoint import (
    Checkpoint,
    Stateful,
    all_damaged,
    damaged_checkpoints,
    restore_checkpoint,
    save_checkpoint,
    saved_progress,
)
from icycle.training._clock import seconds_between
from icycle.training._parts import Parts
from icycle.training._processes import is_first, process_count, totals
from icycle.training._random import RandomState, random_state
from icycle.training._signals import require_no_stop, stop_asked

if TYPE_CHECKING:
    from icycle.training._loop import Trainer

__all__ = ["PartSaver", "Partial", "Saver", "course_folder", "parts_done"]

_COURSE = "course"

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
    """Keeps one trainer's checkpoints in a folder; without a folder it saves nothing, and stops all the same.

    Args:
        course: what is kept is one course of training within a part of a method. The model has the shape that it had
            there by then; what is lost costs only the time, as the part before the course is kept elsewhere.
    """

    def __init__(self, trainer: Trainer, folder: Path | None, hooks: object = None, *, course: bool = False) -> None:
        self._trainer = trainer
        self._folder = folder
        self._stateful = Parts({"hooks": hooks, **trainer.parts})
        self._accuracy: float | None = None
        self._epoch_start: RandomState = {}
        self._saved = time.monotonic()
        self._course = course
        self._before = trainer.recorder.clock.seconds() if course else {}

    def restore(self) -> tuple[Partial, RandomState, float | None]:
        """Put the trainer where the newest checkpoint is; what its unfinished epoch had come to, the random state at
        that epoch's start, and the last accuracy."""
        trainer = self._trainer
        if self._folder is None:
            return Partial(), {}, None
        _tell_damage(trainer, self._folder)
        if self._course and all_damaged(self._folder):
            return Partial(), {}, None
        found = restore_checkpoint(self._folder, trainer.model, trainer.optimizer, self._stateful, pruned=self._course)
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
            seconds_between(self._before, trainer.recorder.clock.seconds()),
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


def course_folder(folder: Path | None, start: int, steps: int) -> Path | None:
    """Where, in the folder of a run's checkpoints, those of a course of `steps` steps from `start` on lie."""
    return None if folder is None else folder / f"{_COURSE}-{start}-{steps}"


class PartSaver:
    """Keeps what a method does with a trained network, part by part, in the folder of its training's checkpoints: what
    is done is never done again. Without a folder it saves nothing, and stops all the same.

    Args:
        trainer: the one that the method trains on with; of the network as it was before any part.
        method: whose state says what is done.
    """

    def __init__(self, trainer: Trainer, folder: Path | None, method: Stateful) -> None:
        self._trainer = trainer
        self._folder = folder
        self._stateful = Parts({"hooks": method, **trainer.parts})
        self._done = 0

    def restore(self) -> None:
        """Put trainer and method where the last part ended; nothing where the method has not begun."""
        trainer = self._trainer
        if self._folder is None or not parts_done(self._folder):
            return
        _tell_damage(trainer, self._folder)
        found = restore_checkpoint(self._folder, trainer.model, trainer.optimizer, self._stateful)
        assert found is not None
        self._done, trainer.epoch, trainer.step = found.progress.part, found.progress.epoch, found.progress.step
        trainer.recorder.clock.add(found.progress.seconds)
        trainer.lay_out()

    def part_done(self) -> None:
        """Save.

        Raises:
            TrainingError: it cannot be saved.
            RunInterruptedError: the process was asked to stop; all is saved.
        """
        self._done += 1
        trainer = self._trainer
        if self._folder is not None and is_first():
            seconds, records = trainer.recorder.clock.seconds(), trainer.recorder.written
            progress = Checkpoint(trainer.epoch, trainer.step, None, seconds, records, part=self._done)
            save_checkpoint(self._folder, progress, trainer.model, trainer.optimizer, self._stateful)
            for course in self._folder.glob(f"{_COURSE}-*"):  # its end is part of what was saved
                shutil.rmtree(course, ignore_errors=True)
        require_no_stop()


def parts_done(folder: Path) -> int:
    """How many parts of what follows the training are done, by the newest whole checkpoint in `folder`."""
    saved = saved_progress(folder)
    return 0 if saved is None else saved.part


def _tell_damage(trainer: Trainer, folder: Path) -> None:
    for path, damage in damaged_checkpoints(folder).items():
        trainer.recorder.write("damaged-checkpoint", path=path, damage=damage)
