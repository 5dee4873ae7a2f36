"""Prune everything at once, then fine-tune once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from icycle.methods._registry import register
from icycle.methods._settings import Positive
from icycle.methods.ice import Stepwise

__all__ = ["OneShot"]


@register
class OneShot(Stepwise):
    """Remove at once what ICE removes in steps, and refit what reads it; recalibrate; fine-tune for `final_epochs` at a
    decaying rate."""

    name: Literal["one-shot"] = "one-shot"
    final_epochs: Annotated[int, Field(ge=0)] = 4
    final_factor: Positive = 2.0

    def fixed(self) -> dict[str, Any]:
        return {"steps": "all", "epochs": 0, "freeze": 0.0, "drop": None}
