"""Learning-rate schedules: pure functions from the progress of a run to a factor on the base learning rate.

Progress is a share of the whole run, 0..1, so that 12 epochs and 300 use one recipe. Because nothing but the progress
enters, a schedule keeps no state: it goes on by itself after a removal or a resume. One's own is a subclass of
`Schedule`, named by its import path.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import Field

from icycle.registry import Kind
from icycle.training._settings import Named, Settings

__all__ = ["Constant", "Cosine", "MultiStep", "Schedule", "ScheduleSettings"]


class Schedule(Settings, ABC):
    """A schedule with an optional linear warm-up over the first `warmup` share of the run.

    One of your own has a default for `name`, settings as fields, and `_decay(progress)`, the factor after the warm-up.
    """

    name: str
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def factor(self, progress: float) -> float:
        """What the base learning rate is multiplied by at `progress` (0..1)."""
        if progress < self.warmup:
            return progress / self.warmup * self._decay(self.warmup)
        return self._decay(progress)

    @abstractmethod
    def _decay(self, progress: float) -> float:
        """The factor at `progress`, `warmup` <= progress <= 1."""


class Cosine(Schedule):
    """Half a cosine from 1 down to `final`."""

    name: Literal["cosine"] = "cosine"
    final: Annotated[float, Field(ge=0, le=1)] = 0.0

    def _decay(self, progress: float) -> float:
        share = (progress - self.warmup) / (1 - self.warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2


class MultiStep(Schedule):
    """Multiplied by `gamma` at each of the `milestones` (shares of the run)."""

    name: Literal["multi-step"] = "multi-step"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.3, 0.6, 0.8, 0.9)
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.2

    def _decay(self, progress: float) -> float:
        return self.gamma ** sum(progress >= milestone for milestone in self.milestones)


class Constant(Schedule):
    """The base learning rate throughout."""

    name: Literal["constant"] = "constant"

    def _decay(self, progress: float) -> float:
        return 1.0


_SCHEDULES: Kind[type[Schedule]] = Kind(
    "a schedule", "icycle.schedules", {"cosine": Cosine, "multi-step": MultiStep, "constant": Constant}
)

ScheduleSettings = Annotated[Schedule, Named(Schedule, _SCHEDULES.find)]
