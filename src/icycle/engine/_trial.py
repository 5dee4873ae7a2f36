"""The trial in numbers: a real copy of the model with other weights is run zeroed, loses the channels, and runs again.

It costs one copy of the weights and less than two forward passes of the example. Only where that looks wrong, it is
repeated with more care (in float64, on fresh copies, with chance silenced), and that decides.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icycle.engine._calm import Calm, seeded
from icycle.engine._compare import ROUNDINGS, relative_error, said
from icycle.engine._values import ADVANCE, UnitScale, new_inputs, new_weights
from icycle.errors import IcycleError
from icycle.structure import Structure, SubNetwork
from icycle.surgery import apply, make_plan, zero
from icycle.tracing import call_with, duplicate, named_tensors, output_tensors, set_mode, undisturbed

__all__ = ["Doubt", "NoNumbersError", "Trial"]

_SMALL = 2 * 10**6, 10**8  # weights and MACs up to which float64 costs milliseconds, and so do some more runs
_EXACT = 1e-10  # relative error in float64 up to which removing is zeroing


class NoNumbersError(IcycleError):
    """With no weights at hand the model gives numbers; says why."""


@dataclass(frozen=True)
class Doubt:
    """What a trial found: a removal that is not zeroing, or, where `broken`, one after which the model does not run."""

    problem: str
    broken: bool = False


class Trial:
    """Trials of one structure of one model."""

    def __init__(self, model: nn.Module, structure: Structure, example_inputs: Any) -> None:
        self._model, self._structure, self._example = model, structure, example_inputs
        self.small = structure.params() <= _SMALL[0] and structure.macs() <= _SMALL[1]
        self._dtype = torch.float64 if self.small else None
        self._kinds = list(ADVANCE)
        self._why_not = ""
        self._shapes: list[tuple[int, ...]] = []  # of the whole model's outputs

    def doubt(self, subnet: SubNetwork) -> Doubt | None:
        """Whether removing what `subnet` removes, from exact groups, is something else than zeroing it.

        Raises NoNumbersError where the model gives no numbers, or does not run, whatever its weights."""
        while not self._looks_right(subnet):
            if self._works(self._dtype):
                return self.judge(subnet)
            self._advance()
        return None

    def judge(self, subnet: SubNetwork) -> Doubt | None:
        """The same with more care, whatever it costs: what this says counts."""
        gc.collect()  # copies before this one may be part of circles, and nobody else collects them meanwhile
        dtype = torch.float64 if self._works(torch.float64) else None
        zeroed, calm = self.zeroed(subnet, dtype), Calm()
        scale = UnitScale(_parameters(zeroed))
        try:
            expected = self.run(zeroed, dtype, scale, calm)
        except Exception as error:
            return Doubt(f"with zeros the model does not run, {_first_line(error)}")
        del zeroed
        try:
            removed = self.removed(subnet, dtype, scale.factors)
            actual = self.run(removed, dtype, calm)
        except Exception as error:
            return Doubt(_first_line(error), broken=True)
        found = relative_error(actual, expected)
        return None if found <= _tolerance(calm.coarsest) else Doubt(_magnitude(found))

    def breaks(self, subnet: SubNetwork) -> Doubt | None:
        """Whether the model no longer runs without what `subnet` removes, or gives outputs of other shapes."""
        while not self._works(self._dtype):
            self._advance()
        without = self._copy(self._dtype)
        try:
            apply(without, make_plan(without, self._structure, subnet))
            shapes = [tuple(tensor.shape) for tensor in self.run(without, self._dtype)]
        except Exception as error:
            return Doubt(_first_line(error), broken=True)
        return None if shapes == self._shapes else Doubt(f"outputs of shape {shapes} instead of {self._shapes}", True)

    # ---- the runs ----

    @property
    def dtype(self) -> torch.dtype | None:
        """In which floats are computed without special care; None where each keeps the type that it has."""
        return self._dtype

    def zeroed(self, subnet: SubNetwork, dtype: torch.dtype | None) -> nn.Module:
        """A copy in which the channels are zero."""
        copy = self._copy(dtype)
        zero(copy, self._structure, subnet)
        return copy

    def removed(self, subnet: SubNetwork, dtype: torch.dtype | None, factors: Mapping[int, float]) -> nn.Module:
        """A copy without the channels; `factors` are those of the run of the zeroed one."""
        copy = self._copy(dtype)
        parameters = _parameters(copy)
        for number, factor in factors.items():
            parameters[number].mul_(factor)
        apply(copy, make_plan(copy, self._structure, subnet))
        return copy

    def run(self, model: nn.Module, dtype: torch.dtype | None, *modes: AbstractContextManager[Any]) -> list[Tensor]:
        """All outputs, of a run in these modes."""
        inputs = self.inputs(dtype)
        with ExitStack() as stack:
            for mode in (self.calmly(dtype), *modes):
                stack.enter_context(mode)
            return list(output_tensors(call_with(model, inputs)))

    def inputs(self, dtype: torch.dtype | None) -> Any:
        """Fresh ones for every run, for a model may write into them."""
        return new_inputs(self._example, self._kinds[0], dtype)

    @contextmanager
    def calmly(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Without gradients, from one random state, and without a trace in the state of the process; a tensor of no
        stated type is made in `dtype`."""
        with undisturbed(self._model), seeded(), torch.no_grad(), _default(dtype):
            yield

    def _copy(self, dtype: torch.dtype | None) -> nn.Module:
        structure, example = self._structure, self._structure.example
        weights = new_weights(self._model, structure, self._kinds[0], dtype)
        copy = duplicate(self._model, weights, structure.caches, example is not None and example.hooks)
        set_mode(copy, training=False)
        return copy

    def _looks_right(self, subnet: SubNetwork) -> bool:
        """On one copy: zeroed and run, then removed from and run."""
        copy = self.zeroed(subnet, self._dtype)
        parameters = _parameters(copy)
        try:
            expected = self.run(copy, self._dtype, UnitScale(parameters))
            apply(copy, make_plan(copy, self._structure, subnet))
            actual = self.run(copy, self._dtype)
        except Exception:
            return False
        tensors = (*expected, *parameters)
        coarsest = max((torch.finfo(tensor.dtype).eps for tensor in tensors if tensor.is_floating_point()), default=0.0)
        return relative_error(actual, expected) <= _tolerance(coarsest)

    def _works(self, dtype: torch.dtype | None) -> bool:
        """Whether the whole model runs, with these weights and in this type, and gives numbers."""
        copy = self._copy(dtype)
        try:
            outputs = self.run(copy, dtype, UnitScale(_parameters(copy)))
        except Exception as error:
            self._why_not = _first_line(error)
            return False
        self._shapes = [tuple(tensor.shape) for tensor in outputs]
        self._why_not = "its outputs are not finite"
        return not any(bool(tensor.isnan().any()) or not bool(tensor.isfinite().any()) for tensor in outputs)

    def _advance(self) -> None:
        """To the type that the model has, then to the next kind of weights."""
        if self._dtype is not None:
            self._dtype = None
        elif len(self._kinds) > 1:
            self._kinds.pop(0)
            self._dtype = torch.float64 if self.small else None
        else:
            raise NoNumbersError(
                f"Expected {type(self._model).__name__} to run on real tensors and give finite numbers, with random "
                f"weights or its own, but: {self._why_not}."
            )


def _parameters(model: nn.Module) -> list[Tensor]:
    return [tensor for _, tensor in named_tensors(model) if isinstance(tensor, nn.Parameter)]


def _tolerance(rounding: float) -> float:
    """The relative error that is put down to rounding."""
    return min(max(_EXACT, ROUNDINGS * rounding), 0.05)


@contextmanager
def _default(dtype: torch.dtype | None) -> Iterator[None]:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype or before)
        yield
    finally:
        torch.set_default_dtype(before)


def _magnitude(error: float) -> str:
    """Its power of ten: further digits may be those of the rounding, which is another every time."""
    if error >= 1:
        return "a relative error of 1 or more"
    return f"a relative error of more than 1e{math.floor(math.log10(error)):+03d}"


def _first_line(error: Exception) -> str:
    return said(error)[:200]
