"""The decoupled shrink: the weights of marked channels fade, whatever the loss and the optimizer do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce

import torch

from icycle.structure import Structure, SubNetwork
from icycle.tracing import is_sharded, sharded_like

__all__ = ["Shrink"]


class Shrink:
    """Multiplies the marked weights towards zero, and remembers what it took.

    Every weight once, even where it is an output of one marked group and an input of another: a weight is marked
    where the removal would take it: if any of its dimensions loses its position. All others stay as they are, to the
    bit.

    What was taken is added back while channels are ranked (`undone`), or the shrink would create the very stability by
    which it is judged. Where nothing else moves the weights this is the same as dividing by the factor that a channel
    has accumulated; where gradients do, dividing would magnify each of them by the inverse of that factor.
    """

    def __init__(self) -> None:
        self._weights: list[torch.Tensor] = []  # the parameters themselves: they follow when the model is moved
        self._marks: list[torch.Tensor] = []  # 1 where marked, else 0; broadcasts over the dimensions that lose nothing
        self._names: list[str] = []
        self._taken: dict[str, torch.Tensor] = {}  # parameter -> what the shrink took from it
        self._pending = 0.0
        self._quantum = 0.0

    def mark(self, model: torch.nn.Module, structure: Structure, subnet: SubNetwork) -> None:
        """From now on shrink what `subnet` does not keep, and nothing else."""
        self.clear()
        masks = subnet.masks(structure)
        for name, parameter in model.named_parameters():
            kept = [torch.from_numpy(layout.kept(masks)) for layout in structure.layouts.get(name, ())]
            if parameter.is_floating_point() and not all(bool(mask.all()) for mask in kept):
                self._names.append(name)
                self._weights.append(parameter)
                mark = _mark(kept).to(parameter.device, parameter.dtype)
                self._marks.append(_sharded_as(parameter, mark) if is_sharded(parameter) else mark)
        # A factor nearer to 1 than the weights' precision can tell would change nothing: half precision saves up steps.
        self._quantum = 8 * max((torch.finfo(weight.dtype).eps for weight in self._weights), default=0.0)

    def clear(self) -> None:
        """Settle what is owed, and mark nothing; what was taken stays known."""
        self._apply()
        self._names, self._weights, self._marks = [], [], []

    def advance(self, amount: float) -> None:
        """Multiply the marked weights by exp(-amount)."""
        self._pending += amount
        if self._pending >= self._quantum:
            self._apply()

    @contextmanager
    def undone(self, model: torch.nn.Module) -> Iterator[None]:
        """Within the block the weights are what they would be if nothing had been taken; then the same as before, to
        the bit."""
        self._apply()
        parameters = dict(model.named_parameters())
        own = {name: _kept(parameters[name]) for name in self._taken}
        try:
            for name, taken in self._taken.items():
                _exchange(parameters[name], (own[name] + taken.to(own[name].device)).to(own[name].dtype))
            yield
        finally:
            for name, data in own.items():
                _exchange(parameters[name], data)

    @property
    def state(self) -> tuple[dict[str, torch.Tensor], float]:
        """Parameter -> what was taken from it, and the log-shrink that is still owed to the marked ones."""
        return dict(self._taken), self._pending

    def restore(self, taken: dict[str, torch.Tensor], pending: float) -> None:
        """Go on from the state of an interrupted run; what was marked then is marked again already."""
        self._taken, self._pending = dict(taken), pending

    @torch.no_grad()
    def _apply(self) -> None:
        if self._weights and self._pending > 0:
            share = math.expm1(-self._pending)
            for name, weight, mark in zip(self._names, self._weights, self._marks, strict=True):
                self._taken[name] = self._taken_from(name, weight)
                self._taken[name].addcmul_(weight.to(self._taken[name].dtype), mark, value=-share)
            # w + (f - 1) * w * mark is w itself where the mark is 0
            torch._foreach_addcmul_(self._weights, self._weights, self._marks, value=share)
        self._pending = 0.0

    def _taken_from(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """What was taken from a parameter so far, beside it; in at least float32, as many small amounts add up."""
        taken = self._taken.get(name)
        if taken is None:
            return torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        return taken.to(weight.device)


def _mark(kept: list[torch.Tensor]) -> torch.Tensor:
    """1 - the outer product of the kept masks, of size 1 in the dimensions that keep everything."""
    factors = []
    for dim, mask in enumerate(kept):
        shape = [1] * len(kept)
        if not mask.all():
            shape[dim] = len(mask)
            factors.append(mask.view(shape))
    return ~reduce(torch.logical_and, factors)


def _sharded_as(parameter: torch.Tensor, mark: torch.Tensor) -> torch.Tensor:
    """A mark, whole in all dimensions, of which each process holds the part that it holds of the parameter."""
    return sharded_like(parameter, mark.expand(parameter.shape).contiguous())


def _kept(parameter: torch.Tensor) -> torch.Tensor:
    """The values, for `_exchange` to put back."""
    return parameter.detach().clone() if is_sharded(parameter) else parameter.data


@torch.no_grad()
def _exchange(parameter: torch.Tensor, values: torch.Tensor) -> None:
    """Give a parameter other values: in the place of its own, or into the memory that whoever sharded it reads."""
    if is_sharded(parameter):
        parameter.copy_(values)
    else:
        parameter.data = values
