"""Where the seconds of a run go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

__all__ = ["STAGES", "StageClock", "seconds_between"]

STAGES = ("train", "search", "evaluation", "recalibration", "rest")


class StageClock:
    """Counts every second since its start for exactly one stage.

    Stages nest: while an inner stage runs, the outer one stands still. What no stage claims is the `rest`. Methods may
    have stages of their own; `STAGES` are those that every run reports.
    On an accelerator the clock sees when work is launched and when its results are read, which is what a run waits for.
    `now` is what it reads; set it to `staticmethod(time.process_time)` where a machine does other work besides.
    """

    now: ClassVar[staticmethod[[], float]] = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._stage = "rest"
        self._since = self.now()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside the `with` block for stage `name`."""
        outer = self._stage
        self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def seconds(self) -> dict[str, float]:
        """Seconds per stage up to now; they add up to the time since the start."""
        self._switch(self._stage)
        return dict(self._seconds)

    def add(self, seconds: dict[str, float]) -> None:
        """Count time that an interrupted part of the same run has already spent."""
        for stage, spent in seconds.items():
            self._seconds[stage] = self._seconds.get(stage, 0.0) + spent

    def _switch(self, stage: str) -> None:
        now = self.now()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now


def seconds_between(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Seconds per stage from one reading of a clock to a later one."""
    return {stage: spent - before.get(stage, 0.0) for stage, spent in after.items()}
