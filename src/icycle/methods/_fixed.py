"""One removal at a stated time of the training run: what deciding when to remove has to beat."""

from __future__ import annotations

from typing import ClassVar, Literal

from icycle.methods._registry import Context, Method, MethodResult, register
from icycle.methods._removal import RemovalSettings
from icycle.methods._scheduled import train_with_removals
from icycle.methods._settings import Share

__all__ = ["AtInit", "Fixed"]


@register
class Fixed(RemovalSettings, Method):
    """Train; at the share `at` of the run remove all that is beyond the budget; train on."""

    name: Literal["fixed"] = "fixed"
    has_teacher: ClassVar[bool] = True
    at: Share = 0.25

    def run(self, context: Context) -> MethodResult:
        return train_with_removals(self, context, [(self.at, 1.0)])


@register
class AtInit(RemovalSettings, Method):
    """Remove all that is beyond the budget from the network as it is before the first step; train."""

    name: Literal["at-init"] = "at-init"

    def run(self, context: Context) -> MethodResult:
        return train_with_removals(self, context, [(0.0, 1.0)])
