"""Where a training is in its passes over the data: the rest of one that was cut off, and a course of several.

An epoch is a pass; a step of the optimizer takes one batch, or as many as it accumulates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

from icycle.training._batches import Batch, Loader
from icycle.training._random import RandomState, random_state, restore_random

__all__ = ["Course", "Rest", "steps_in"]


@runtime_checkable
class _HasEpochs(Protocol):
    def set_epoch(self, epoch: int) -> None: ...


class Rest:
    """A loader's batches after the first `done` of an epoch.

    What it draws by chance is drawn as in the whole epoch, from the random state at its `start`; training goes on from
    the one it had come to.
    """

    def __init__(self, loader: Loader, done: int, start: RandomState) -> None:
        self._loader, self._done, self._start = loader, done, start

    def set_epoch(self, epoch: int) -> None:
        if isinstance(self._loader, _HasEpochs):
            self._loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        if self._done == 0:
            yield from self._loader
            return
        now = random_state()
        restore_random(self._start)
        batches = iter(self._loader)
        for _ in islice(batches, self._done):
            pass
        restore_random(now)
        yield from batches


@dataclass(frozen=True)
class Course:
    """The learning rate, by the progress 0..1, of `steps` steps from `start` on."""

    start: int
    steps: int
    rate: Callable[[float], float]

    def at(self, step: int) -> float:
        return self.rate(min((step - self.start + 0.5) / self.steps, 1.0))


def steps_in(batches: int, batches_per_epoch: int, accumulate: int) -> int:
    """The steps of the optimizer in so many batches; the last one of each epoch may have fewer than it accumulates."""
    epochs, rest = divmod(batches, batches_per_epoch)
    return epochs * math.ceil(batches_per_epoch / accumulate) + math.ceil(rest / accumulate)
