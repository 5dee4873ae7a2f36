"""The decoupled shrink: the weights of marked channels fade, whatever the loss and the optimizer do."""

from __future__ import annotations

import math
from functools import reduce

import torch

from icycle.structure import Structure, SubNetwork

__all__ = ["Shrink"]


class Shrink:
    """Multiplies the marked weights towards zero.

    Every weight once, even where it is an output of one marked group and an input of another: a weight is marked
    where the removal would take it: if any of its dimensions loses its position. All others stay as they are, to the
    bit.
    """

    def __init__(self) -> None:
        self._weights: list[torch.Tensor] = []  # the parameters themselves: they follow when the model is moved
        self._marks: list[torch.Tensor] = []  # 1 where marked, else 0; broadcasts over the dimensions that lose nothing
        self._pending = 0.0
        self._quantum = 0.0

    def mark(self, model: torch.nn.Module, structure: Structure, subnet: SubNetwork) -> None:
        """From now on shrink what `subnet` does not keep, and nothing else."""
        self.clear()
        masks = subnet.masks(structure)
        for name, parameter in model.named_parameters():
            kept = [torch.from_numpy(layout.kept(masks)) for layout in structure.layouts.get(name, ())]
            if parameter.is_floating_point() and not all(bool(mask.all()) for mask in kept):
                self._weights.append(parameter)
                self._marks.append(_mark(kept).to(parameter.device, parameter.dtype))
        # A factor nearer to 1 than the weights' precision can tell would change nothing: half precision saves up steps.
        self._quantum = 8 * max((torch.finfo(weight.dtype).eps for weight in self._weights), default=0.0)

    def clear(self) -> None:
        """Settle what is owed, and mark nothing."""
        self._apply()
        self._weights, self._marks = [], []

    def advance(self, amount: float) -> None:
        """Multiply the marked weights by exp(-amount)."""
        self._pending += amount
        if self._pending >= self._quantum:
            self._apply()

    @torch.no_grad()
    def _apply(self) -> None:
        if self._weights and self._pending > 0:
            # w + (f - 1) * w * mark is w itself where the mark is 0
            torch._foreach_addcmul_(self._weights, self._weights, self._marks, value=math.expm1(-self._pending))
        self._pending = 0.0


def _mark(kept: list[torch.Tensor]) -> torch.Tensor:
    """1 - the outer product of the kept masks, of size 1 in the dimensions that keep everything."""
    factors = []
    for dim, mask in enumerate(kept):
        shape = [1] * len(kept)
        if not mask.all():
            shape[dim] = len(mask)
            factors.append(mask.view(shape))
    return ~reduce(torch.logical_and, factors)
