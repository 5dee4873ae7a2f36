"""The dry run: a plan is applied to a shadow, which is run again, and every shape must be what the algebra
predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from icycle.axes import count, is_pinned
from icycle.structure import Structure
from icycle.surgery._apply import apply
from icycle.surgery._plan import Plan
from icycle.tracing import (
    Dims,
    Step,
    Trace,
    flat_tensors,
    output_tensors,
    run_shadow,
    shadow_inputs,
    shadow_of,
    undisturbed,
)

__all__ = ["Fault", "dry_run", "rehearse"]


@dataclass(frozen=True)
class Fault:
    """The operations of a dry run of which one did not go as predicted, and how."""

    steps: tuple[Step, ...]
    problem: str


class _MismatchError(Exception):
    pass


# how torch arranges a product (copies, views, a separate addition) depends on sizes of one, so these may come and go
_PASSING = frozenset(
    "view _unsafe_view _reshape_alias clone expand alias detach contiguous _to_copy permute transpose t unsqueeze "
    "squeeze slice select".split()
)
# so does the choice between these; where one size has become one, a multiplication may take their place
_PRODUCTS = frozenset(("mm", "addmm", "bmm", "baddbmm"))


def _essential(operation: Any) -> str | None:
    """The name under which an operation is compared; None for one that may come and go."""
    name = operation.name().split("::")[1].split(".")[0]
    if name in _PASSING or torch.Tag.pointwise in operation.tags:
        return None
    return "product" if name in _PRODUCTS else name


@dataclass
class _Checker:
    """Compares the operations of a run with the recorded ones; `position` is the one expected next."""

    steps: tuple[Step, ...]
    counts: Mapping[int, int]
    by_value: bool  # real values decide: the course may differ, and with it sizes that no removal changes
    position: int = 0
    lost: bool = False

    def observe(self, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Compare the shapes of what an essential operation gave with the prediction.

        Tensors that the recorded run followed are marked, so that constants are passed over as they were there.
        """
        results = list(flat_tensors(result))
        tensors = list(flat_tensors((args, kwargs)))
        name = _essential(operation)
        step = self._next()
        followed = any(hasattr(tensor, "_icycle") for tensor in tensors)
        factory = step is not None and not tensors and not step.inputs and name == _essential(step.operation)
        if not results or not (followed or factory):
            return
        for tensor in results:
            tensor._icycle = True  # type: ignore[attr-defined]
        if name is None or self.lost:
            return
        step = self._after_vanished(name, results)
        if step is None or name != _essential(step.operation) or len(results) != len(step.outputs):
            self.lost = self.by_value
            if self.lost:
                return
            raise _MismatchError(f"{name} instead of {step.operation if step else 'the end'}")
        for tensor, dims in zip(results, step.outputs, strict=True):
            if dims is not None and not self._as_predicted(tensor.shape, dims):
                expected = [count(dim)(self.counts) for dim in dims]
                raise _MismatchError(f"a result of shape {list(tensor.shape)} instead of {expected}")
        self.position += 1

    def _after_vanished(self, name: str, results: list[torch.Tensor]) -> Step | None:
        """The step that an operation is compared with: the next, or the one behind products that have vanished."""
        before = self.position
        while (step := self._next()) is not None and self._may_vanish(step) and not self._fits(name, results, step):
            self.position += 1
        if step is not None and self._fits(name, results, step):
            return step
        self.position = before
        return self._next()

    def _fits(self, name: str, results: list[torch.Tensor], step: Step) -> bool:
        same = name == _essential(step.operation) and len(results) == len(step.outputs)
        return same and all(
            dims is None or self._as_predicted(tensor.shape, dims)
            for tensor, dims in zip(results, step.outputs, strict=True)
        )

    def _may_vanish(self, step: Step) -> bool:
        """True for a product with a dimension of which one element is left."""
        dims = (dim for group in (*step.inputs, *step.outputs) if group is not None for dim in group)
        return _essential(step.operation) == "product" and any(
            dim.size > 1 and count(dim)(self.counts) == 1 for dim in dims
        )

    def _as_predicted(self, shape: Sequence[int], dims: Dims) -> bool:
        expected = [count(dim)(self.counts) for dim in dims]
        if len(shape) != len(dims):  # a product's leading dimensions were folded, or no longer are
            return self.by_value or math.prod(shape) == math.prod(expected)
        if self.by_value:
            return all(now == size or is_pinned(dim) for now, size, dim in zip(shape, expected, dims, strict=True))
        return list(shape) == expected

    def _next(self) -> Step | None:
        while self.position < len(self.steps) and _essential(self.steps[self.position].operation) is None:
            self.position += 1
        return self.steps[self.position] if self.position < len(self.steps) else None

    def suspects(self) -> tuple[Step, ...]:
        """The operation that is expected next, and all since the last that matched."""
        self._next()
        start = min(self.position, len(self.steps) - 1)
        while start > 0 and _essential(self.steps[start - 1].operation) is None:
            start -= 1
        return self.steps[start : self.position + 1]


def dry_run(
    shadow: nn.Module, example_inputs: Any, trace: Trace, plan: Plan, counts: Mapping[int, int]
) -> Fault | None:
    """Apply `plan` to a shadow and repeat the recorded runs; `counts` maps a free axis to its kept count."""
    with undisturbed(shadow):
        apply(shadow, plan)
        for tensor in (*shadow.parameters(), *shadow.buffers()):
            tensor._icycle = True  # type: ignore[attr-defined]
        for training, steps in trace.runs:
            checker = _Checker(steps, counts, by_value=not trace.meta)
            shadow.train(training)
            inputs = shadow_inputs(example_inputs, trace.meta, training, lambda tensor: True)
            try:
                run_shadow(shadow, inputs, checker.observe, trace.meta)
            except Exception as error:
                return Fault(checker.suspects(), str(error).split("\n")[0])
    return None


def rehearse(model: nn.Module, structure: Structure, plan: Plan) -> str | None:
    """Apply `plan` to a shadow of `model` and run that in eval mode; what goes wrong, or None.

    The outputs must have the shapes that the whole model's had, except where a run on real values decides them.
    """
    example = structure.example
    if example is None:  # the structure was not traced, but put together by hand
        return None
    with undisturbed(model):
        shadow = shadow_of(model, example.meta, structure.caches).eval()
        try:
            apply(shadow, plan)
            result = run_shadow(shadow, example.inputs, lambda *observed: None, example.meta)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    shapes = tuple(tuple(tensor.shape) for tensor in output_tensors(result))
    if example.meta and shapes != example.output_shapes:
        return f"the outputs have the shapes {shapes} instead of {example.output_shapes}"
    return None
