"""The dry run: a plan is applied to a shadow, which is run again, and every shape must be what the algebra predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from icycle.axes import Dim, count
from icycle.surgery._apply import apply
from icycle.surgery._plan import Plan
from icycle.tracing import Step, Trace, flat_tensors, map_tensors, run_shadow, shadow_of, undisturbed

__all__ = ["Fault", "dry_run"]


@dataclass(frozen=True)
class Fault:
    """The first operation of a dry run that did not go as predicted, and how."""

    step: Step
    problem: str


class _Mismatch(Exception):
    pass


@dataclass
class _Checker:
    """Compares the operations of a run with the recorded ones; `position` is the one expected next."""

    steps: tuple[Step, ...]
    counts: Mapping[int, int]
    tracked: Any
    position: int = 0

    def observe(self, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        results = list(flat_tensors(result))
        tensors = list(flat_tensors((args, kwargs)))
        followed = any(hasattr(tensor, "_icycle") for tensor in tensors)
        if not results or not followed:
            if not (results and self._is_next(operation, tensors)):
                return
        if self.position >= len(self.steps):
            raise _Mismatch("more operations than before")
        step = self.steps[self.position]
        name = operation.name().split(".")[0]
        if name != step.operation:
            raise _Mismatch(f"{name} instead of {step.operation}")
        for tensor, dims in zip(results, step.outputs, strict=True):
            if dims is not None:
                expected = [self._size(dim) for dim in dims]
                if list(tensor.shape) != expected:
                    raise _Mismatch(f"a result of shape {list(tensor.shape)} instead of {expected}")
                tensor._icycle = True  # type: ignore[attr-defined]
        self.position += 1

    def _is_next(self, operation: Any, tensors: list[torch.Tensor]) -> bool:
        """A new tensor with recorded sizes has no followed operand, and is recognised by its name."""
        if self.position >= len(self.steps):
            return False
        step = self.steps[self.position]
        return operation.name().split(".")[0] == step.operation and len(step.inputs) == len(tensors) == 0

    def _size(self, dim: Dim) -> int:
        return count(dim)(self.counts)


def dry_run(
    model: nn.Module, example_inputs: Any, trace: Trace, plan: Plan, counts: Mapping[int, int]
) -> Fault | None:
    """Apply `plan` to a shadow of `model` and repeat the recorded runs; `counts` maps a free axis to its kept count."""
    with undisturbed(model):
        shadow = shadow_of(model, trace.meta)
        apply(shadow, plan)
        for tensor in (*shadow.parameters(), *shadow.buffers()):
            tensor._icycle = True  # type: ignore[attr-defined]
        for training, steps in trace.runs:
            checker = _Checker(steps, counts, None)
            shadow.train(training)
            inputs = map_tensors(example_inputs, lambda tensor: _input(tensor, trace.meta, training))
            try:
                run_shadow(shadow, inputs, checker.observe, trace.meta)
            except Exception as error:
                step = steps[min(checker.position, len(steps) - 1)]
                return Fault(step, str(error).split("\n")[0])
    return None


def _input(tensor: torch.Tensor, meta: bool, training: bool) -> torch.Tensor:
    data = tensor.detach()
    if training and data.dim() > 1 and data.shape[0] == 1:
        data = torch.cat((data, data))
    floating = data.is_floating_point() or data.is_complex()
    data = torch.empty_strided(data.shape, data.stride(), dtype=data.dtype, device="meta") if meta and floating else data.clone()
    data._icycle = True  # type: ignore[attr-defined]
    return data
