"""Training alone: what every method is compared with."""

from __future__ import annotations

from typing import Literal

from icycle.methods._registry import Context, Method, MethodResult, register

__all__ = ["Dense"]


@register
class Dense(Method):
    """Train, and prune nothing."""

    name: Literal["dense"] = "dense"

    def run(self, context: Context) -> MethodResult:
        return MethodResult(validation_accuracy=context.fit(context.trainer()))
