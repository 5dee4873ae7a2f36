"""One-Cycle Pruning: the network becomes smaller along one smooth schedule while it trains."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from icycle.methods._registry import Context, Method, MethodResult, register
from icycle.methods._removal import RemovalSettings
from icycle.methods._scheduled import Moment, train_with_removals
from icycle.methods._settings import Count

__all__ = ["Gradual", "schedule", "time_of"]


def schedule(progress: float, alpha: float, beta: float) -> float:
    """s(t) = (1 + exp(-alpha + beta)) / (1 + exp(-alpha t + beta)): the share of the target that is gone at t, 0..1.

    Source: Hubens and others, "One-Cycle Pruning: Pruning ConvNets Under a Tight Training Budget", arXiv 2107.02086.
    """
    return (1 + math.exp(-alpha + beta)) / (1 + math.exp(-alpha * progress + beta))


def time_of(share: float, alpha: float, beta: float) -> float:
    """The t, 0..1, at which s(t) is `share` (0 < share <= 1), or 0 where s(0) is more."""
    return max((beta - math.log((1 + math.exp(-alpha + beta)) / share - 1)) / alpha, 0.0)


@register
class Gradual(RemovalSettings, Method):
    """Remove equal parts `removals` times, each when the schedule is half-way through it; one removal: at a fixed time.

    With alpha = 14 and beta = 6 the first of 8 comes at 24 % of the run, the fourth at 41 %, and the last at 62 %.
    """

    name: Literal["gradual"] = "gradual"
    has_teacher: ClassVar[bool] = True
    removals: Count = 8
    alpha: Annotated[float, Field(gt=0)] = 14.0
    beta: float = 6.0

    @property
    def moments(self) -> tuple[Moment, ...]:
        parts = range(1, self.removals + 1)
        return tuple(
            (time_of((part - 0.5) / self.removals, self.alpha, self.beta), part / self.removals) for part in parts
        )

    def run(self, context: Context) -> MethodResult:
        return train_with_removals(self, context, self.moments)
