"""When a run searches, shrinks and removes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from icycle.errors import TrainingError
from icycle.methods._settings import STRICT

__all__ = ["Phases"]


@dataclass(frozen=True)
class Phases:
    """When a run searches, shrinks and removes. Times are fractions of the run, so 12 epochs and 300 share one setting.

    The search has settled once the indicator is at `threshold`, or is at `plateau` and has stopped rising. Then its
    channels shrink for the time `ramp`, and are removed. Where it does not settle, that begins early enough to end at
    the deadline, `sparsity_end`.

    With `sparsity_start` the channels marked at the time shrink from then on while the search goes on, up to the
    deadline or until it has settled.

    Raises:
        TrainingError: a value is out of range.
    """

    __pydantic_config__ = STRICT

    monitor_start: float = 0.02  # searches begin
    sparsity_start: float | None = None  # the shrink begins, whatever the indicator says; None: once it has settled
    sparsity_end: float = 0.35  # the deadline of the removal
    checks: int = 200  # searches per run
    lag: float = 0.05  # a sub-network is compared with the one found this long before
    window: float = 0.05  # the indicator is a mean over this long
    threshold: float = 0.95  # the indicator, 0..1, at which the search has settled
    plateau: float = 0.8  # the indicator, 0..1, at which it has settled if it has stopped rising
    patience: float = 0.05  # without a new best this long, it has stopped rising
    rise: float = 0.005  # by which a value must exceed the best to be a new best
    ramp: float = 0.05  # how long the channels of a search that has settled shrink
    shrink: float = 8.0  # channels marked all the while have shrunk by exp(-shrink) at the removal; 0: no shrink

    def __post_init__(self) -> None:
        start = self.monitor_start if self.sparsity_start is None else self.sparsity_start
        in_range = (
            0 <= min(self.monitor_start, start) <= max(self.monitor_start, start) < self.sparsity_end <= 1
            and self.checks >= 1
            and 0 < self.lag < 1
            and 0 <= self.window < 1
            and 0 < self.plateau <= self.threshold <= 1
            and 0 < self.patience < 1
            and 0 <= self.rise < 1
            and 0 < self.ramp <= 1
            and 0 <= self.shrink < math.inf
        )
        if not in_range:
            raise TrainingError(
                "Expected 0 <= monitor_start, sparsity_start < sparsity_end <= 1, checks >= 1, 0 < lag < 1, "
                "0 <= window < 1, 0 < plateau <= threshold <= 1, 0 < patience < 1, 0 <= rise < 1, 0 < ramp <= 1 and "
                f"shrink >= 0, but got {self}."
            )

    @property
    def shrinks_last(self) -> bool:
        """Does the shrink follow the search, or (given `sparsity_start`) go along with it?"""
        return self.sparsity_start is None and self.shrink > 0

    @property
    def search_end(self) -> float:
        """When the search ends at the latest."""
        return max(self.monitor_start, self.sparsity_end - self.ramp) if self.shrinks_last else self.sparsity_end

    def removal_after(self, settled: float) -> float:
        """When the channels go, of a search that ended at `settled`."""
        return min(settled + self.ramp, self.sparsity_end) if self.shrinks_last else settled

    def shrunk_by(self, progress: float, start: float | None) -> float:
        """The log-shrink, 0..`shrink`, that channels marked from `start` (None: not yet) to `progress` have undergone.

        Its rate grows linearly: shrink * u^2, u running from 0 to 1 over the time that the shrink has. The number of
        steps does not matter, and neither does the learning rate, whose course nobody knows.
        """
        if start is None:
            return 0.0
        length = min(self.ramp, self.sparsity_end - start) if self.shrinks_last else self.sparsity_end - start
        return self.shrink * min(max((progress - start) / length, 0.0), 1.0) ** 2 if length > 0 else self.shrink
