"""The dry run: a plan is applied to a shadow, which is run again, and every shape must be what the algebra
predicted."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from icycle.axes import Dim, count, is_pinned, leaves
from icycle.engine._compare import said
from icycle.engine._scalars import Given, changed, scalars
from icycle.surgery import Plan, apply
from icycle.tracing import (
    Dims,
    Step,
    Trace,
    flat_tensors,
    named_tensors,
    run_shadow,
    set_mode,
    shadow_inputs,
    undisturbed,
)

__all__ = ["Fault", "dry_run"]


@dataclass(frozen=True)
class Fault:
    """The operations of a dry run of which one did not go as predicted, and how.

    With `number` all shapes are as predicted, but the operation was given another number than before: one made of a
    size.
    """

    steps: tuple[Step, ...]
    problem: str
    number: bool = False


class _MismatchError(Exception):
    pass


# how torch arranges a product (copies, views, a separate addition) depends on sizes of one, so these may come and go
_PASSING = frozenset(
    "view _unsafe_view _reshape_alias clone expand alias detach contiguous _to_copy permute transpose t unsqueeze "
    "squeeze slice select as_strided_".split()
)
# so does the choice between these; where one size has become one, a multiplication may take their place
_PRODUCTS = frozenset(("mm", "addmm", "bmm", "baddbmm"))


@functools.lru_cache(maxsize=1024)
def _essential(operation: Any) -> str | None:
    """The name under which an operation is compared; None for one that may come and go."""
    name = operation.name().split("::")[1].split(".")[0]
    if name in _PASSING or torch.Tag.pointwise in operation.tags:
        return None
    return "product" if name in _PRODUCTS else name


@dataclass
class _Checker:
    """Compares the operations of a run with the recorded ones.

    `places` are the steps of which one is expected next: several, because a product that fits a step which may have
    vanished may also be a later one.
    """

    steps: tuple[Step, ...]
    counts: Mapping[int, int]
    by_value: bool  # real values decide: the course may differ, and with it sizes that no removal changes
    places: tuple[int, ...] = ()  # front to back
    lost: bool = False
    given: list[Given] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = self._expected_from(0)

    def observe(self, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Compare the shapes of what an essential operation gave with the prediction.

        Tensors that the recorded run followed are marked, so that constants are passed over as they were there.
        """
        results = flat_tensors(result)
        tensors = flat_tensors((args, kwargs))
        name = _essential(operation)
        followed = any(hasattr(tensor, "_icycle") for tensor in tensors)
        if not results or not (followed or (not tensors and self._is_factory(name, results))):
            return
        for tensor in results:
            tensor._icycle = True  # type: ignore[attr-defined]
        numbers = scalars(operation, args, kwargs) if followed else ()
        if numbers:
            self.given.append((str(operation), numbers))
        if name is None or self.lost:
            return
        fitting = [place for place in self.places if self._fits(name, results, self.steps[place])]
        if fitting:
            self.places = tuple(sorted({after for place in fitting for after in self._expected_from(place + 1)}))
        elif self.by_value and not any(self._same(name, results, self.steps[place]) for place in self.places):
            self.lost = True
        else:
            raise _MismatchError(self._problem(name, results))

    def _expected_from(self, place: int) -> tuple[int, ...]:
        """The next essential step, and where that one may vanish, those that may then come next."""
        found = []
        for later in range(place, len(self.steps)):
            if _essential(self.steps[later].operation) is not None:
                found.append(later)
                if not self._may_vanish(self.steps[later]):
                    break
        return tuple(found)

    def _is_factory(self, name: str | None, results: list[torch.Tensor]) -> bool:
        """Whether a new tensor is the one expected next: code makes others by the same name, of literal sizes, which no
        run records."""
        expected = (self.steps[place] for place in self.places)
        return name is not None and any(not step.inputs and self._fits(name, results, step) for step in expected)

    def _same(self, name: str, results: list[torch.Tensor], step: Step) -> bool:
        return name == _essential(step.operation) and len(results) == len(step.outputs)

    def _fits(self, name: str, results: list[torch.Tensor], step: Step) -> bool:
        return self._same(name, results, step) and all(
            dims is None or self._as_predicted(tensor.shape, dims)
            for tensor, dims in zip(results, step.outputs, strict=True)
        )

    def _may_vanish(self, step: Step) -> bool:
        """True for a product with a dimension of which one element is left."""
        dims = (dim for group in (*step.inputs, *step.outputs) if group is not None for dim in group)
        return _essential(step.operation) == "product" and any(dim.size > 1 and self._kept(dim) == 1 for dim in dims)

    def _as_predicted(self, shape: Sequence[int], dims: Dims) -> bool:
        expected = [self._kept(dim) for dim in dims]
        if len(shape) != len(dims):  # a product's leading dimensions were folded, or no longer are
            return self.by_value or math.prod(shape) == math.prod(expected)
        if self.by_value:
            return all(now == size or is_pinned(dim) for now, size, dim in zip(shape, expected, dims, strict=True))
        return list(shape) == expected

    def _kept(self, dim: Dim) -> int:
        """How many elements of a dimension are left; of axes that are no group's, as in a buffer of its own, all."""
        try:
            return count(dim)(self.counts)
        except KeyError:
            return count(dim)({**{axis.created: axis.size for axis in leaves(dim)}, **self.counts})

    def _problem(self, name: str, results: list[torch.Tensor]) -> str:
        step = self.steps[self.places[0]] if self.places else None
        if step is None or not self._same(name, results, step):
            return f"{name} instead of {step.operation if step else 'the end'}"
        for tensor, dims in zip(results, step.outputs, strict=True):
            if dims is not None and not self._as_predicted(tensor.shape, dims):
                return f"a result of shape {list(tensor.shape)} instead of {[self._kept(dim) for dim in dims]}"
        raise AssertionError("what fits is no problem")

    def suspects(self) -> tuple[Step, ...]:
        """The operations that are expected next, and all since the last that matched."""
        start = self.places[0] if self.places else len(self.steps) - 1
        stop = self.places[-1] if self.places else start
        while start > 0 and _essential(self.steps[start - 1].operation) is None:
            start -= 1
        return self.steps[start : stop + 1]


def dry_run(
    shadow: nn.Module, example_inputs: Any, trace: Trace, plan: Plan | None, counts: Mapping[int, int]
) -> Fault | None:
    """Apply `plan` (None: remove nothing) to a shadow and repeat the recorded runs; `counts` maps a free axis to its
    kept count."""
    with undisturbed(shadow):
        if plan is not None:
            apply(shadow, plan)
        for _, tensor in named_tensors(shadow):
            tensor._icycle = True  # type: ignore[attr-defined]
        for training, steps in trace.runs:
            checker = _Checker(steps, counts, by_value=not trace.meta)
            set_mode(shadow, training)
            inputs = shadow_inputs(example_inputs, trace.meta, training, lambda tensor: True)
            try:
                run_shadow(shadow, inputs, checker.observe, trace.meta)
            except Exception as error:
                problem = str(error).split("\n")[0] if isinstance(error, _MismatchError) else said(error)
                return Fault(checker.suspects(), problem)
            if trace.meta and (step := changed(steps, checker.given)) is not None:
                return Fault((step,), f"another number for {step.operation}", number=True)
    return None
