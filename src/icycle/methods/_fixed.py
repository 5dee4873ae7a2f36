"""One removal at a stated time of the training run: what deciding when to remove has to beat."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from icycle.methods._registry import Context, Method, MethodResult, register
from icycle.methods._removal import RemovalSettings
from icycle.methods._scheduled import train_with_removals
from icycle.methods._settings import Share
from icycle.methods.one_cycle import OneCycleMethod, Phases

__all__ = ["AtInit", "Fixed"]


@register
class Fixed(RemovalSettings, Method):
    """Train; at the share `at` of the run remove all that is beyond the budget; train on.

    With a `shrink` the channels are chosen `ramp` earlier, and their weights shrink by exp(-shrink) in between:
    one-cycle pruning by the clock, whatever its indicator says.
    """

    name: Literal["fixed"] = "fixed"
    has_teacher: ClassVar[bool] = True
    at: Share = 0.25
    shrink: Annotated[float, Field(ge=0)] = 0.0
    ramp: Annotated[float, Field(gt=0, le=1)] = 0.05

    @model_validator(mode="after")
    def _room_to_shrink(self) -> Fixed:
        if self.shrink and self.at < self.ramp:
            raise ValueError(f"expected at >= ramp where channels shrink first, but got {self.at} and {self.ramp}")
        return self

    def run(self, context: Context) -> MethodResult:
        if not self.shrink:
            return train_with_removals(self, context, [(self.at, 1.0)])
        return self._one_cycle().run(context)

    def _one_cycle(self) -> OneCycleMethod:
        """With one search, that ends at its deadline."""
        phases = Phases(
            monitor_start=self.at - self.ramp,
            sparsity_end=self.at,
            threshold=1.0,
            plateau=1.0,
            ramp=self.ramp,
            shrink=self.shrink,
        )
        shared = {name: getattr(self, name) for name in RemovalSettings.model_fields}
        return OneCycleMethod(phases=phases, **shared)


@register
class AtInit(RemovalSettings, Method):
    """Remove all that is beyond the budget from the network as it is before the first step; train."""

    name: Literal["at-init"] = "at-init"

    def run(self, context: Context) -> MethodResult:
        return train_with_removals(self, context, [(0.0, 1.0)])
