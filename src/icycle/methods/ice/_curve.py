"""The pruning-aware learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from icycle.errors import TrainingError
from icycle.methods._settings import STRICT

__all__ = ["Curve", "pruning_aware_rate"]

_SHARE = 0.1  # of the rate that a network is trained with


def pruning_aware_rate(x: float, *, base: float, delta: float, p: float, beta: float) -> float:
    """lr(x) = base - delta / (1 + (x / (2 (1 - p) - x))^beta), a smooth step down as a network loses its weights.

    Args:
        x: the share of the weights that remain, 0..1.
        base: the rate while much is left.
        delta: how far it falls: to base - delta while little is left.
        p: the pruned share at which it has fallen half-way (x = 1 - p), 0..1.
        beta: the steepness, > 0.

    At x >= 2 (1 - p), where the formula's fraction has passed infinity, the rate is `base`; at x = 0 it is
    base - delta. Source: ICE-Pruning, arXiv 2505.07411.
    """
    room = 2 * (1 - p) - x
    if room <= 0:
        return base
    if x <= 0:
        return base - delta
    exponent = beta * math.log(x / room)  # a power of 60 overflows; its logarithm does not
    return base - delta / (1 + math.exp(exponent)) if exponent < 700 else base


@dataclass(frozen=True)
class Curve:
    """The parameters of `pruning_aware_rate`; called with the remaining share of the weights, it gives the rate. By
    default that is `base` whatever remains: the fall has not paid in any benchmark. Where a recipe leaves `base` out,
    it is a tenth of the rate that the network is trained with, whatever the optimizer.

    Raises:
        TrainingError: a parameter is out of range.
    """

    __pydantic_config__ = STRICT

    base: float | None = None
    delta: float = 0.0
    p: float = 0.2
    beta: float = 40.0

    def __post_init__(self) -> None:
        base = self.base
        falls = self.delta == 0 if base is None else 0 < base < math.inf and 0 <= self.delta < base
        if not (falls and 0 < self.p < 1 and self.beta > 0):
            raise TrainingError(
                f"Expected base > 0, 0 <= delta < base (0 without one), 0 < p < 1 and beta > 0, but got {self}."
            )

    @property
    def highest(self) -> float:
        """The rate while much is left."""
        if self.base is None:
            raise TrainingError("Expected a curve with a base, but it has none; state it: icycle.Curve(base=0.01).")
        return self.base

    def __call__(self, x: float) -> float:
        return pruning_aware_rate(x, base=self.highest, delta=self.delta, p=self.p, beta=self.beta)

    def after(self, trained_with: float) -> Curve:
        """The curve for a network that was trained with this learning rate."""
        return self if self.base is not None else replace(self, base=_SHARE * trained_with)

    def flat(self) -> Curve:
        """The rate `base` whatever remains: what an ablation compares with."""
        return replace(self, delta=0.0)
