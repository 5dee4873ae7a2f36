"""Prune step by step, and fine-tune after every step: the baseline of iterative pruning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from icycle.methods._registry import register
from icycle.methods.ice import Stepwise

__all__ = ["Iterative"]


@register
class Iterative(Stepwise):
    """Fine-tune for `epochs` at the constant rate `curve.base` after every step, or at one that decays within it."""

    name: Literal["iterative"] = "iterative"
    epochs: Annotated[float, Field(gt=0)] = 1.0
    decay: bool = False

    def fixed(self) -> dict[str, Any]:
        flat = self.curve.flat()
        return {"threshold": None, "calibrate": False, "freeze": 0.0, "final_epochs": 0, "curve": flat}
