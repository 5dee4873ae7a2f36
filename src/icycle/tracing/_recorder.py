"""Sees every operation of a run: has its rule applied, and keeps what a trace is made of."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from icycle.axes import Axis, Dim, pin
from icycle.reasons import Kind, Place, Reason
from icycle.tracing._conditions import Condition, Conditions
from icycle.tracing._lifetimes import NOTHING, Lifetimes, Memory
from icycle.tracing._modules import named_modules
from icycle.tracing._operands import without_tensors
from icycle.tracing._registry import find_rule
from icycle.tracing._site import site_here, user_frame
from icycle.tracing._sizes import FromDim, TracedInt
from icycle.tracing._tracer import Call, Dims, Info, Tracer, flat, flat_tensors

__all__ = ["Recorder", "Step", "has_dimensions"]


_USES = {"branch": "a comparison", "output": "an output"}


@dataclass(frozen=True)
class Step:
    """One operation of a run: the ATen operation, the place it ran at, the dimensions it touched, its (positional,
    keyword) arguments with an `Operand` for every tensor, and what is in memory then."""

    operation: Any
    place: Place
    inputs: tuple[Dims, ...]
    outputs: tuple[Dims | None, ...]
    arguments: tuple[Any, Any] = ((), {})
    memory: Memory = NOTHING


def has_dimensions(result: Any) -> bool:
    """Whether an operation gave more than a number, as where batch norm counts its batches."""
    return not isinstance(result, torch.Tensor) or result.dim() > 0


class Recorder(Tracer):
    """The tracer that the rules get, together with what only the run itself does with it."""

    def __init__(self, shadow: nn.Module, head_width: bool) -> None:
        super().__init__(Conditions(head_width, dict(named_modules(shadow))), head_width)
        self.paths: list[str] = []  # of the modules that are running, innermost last
        self.steps: list[Step] = []  # of this run
        self.seen: list[Any] = []  # operations of this run, constant ones as well, that `has_dimensions`
        self.used: list[Dim] = []  # the parameters' own dimensions, in the order in which they were used
        self.unknown: Counter[str] = Counter()  # operations without a rule
        self._lifetimes = Lifetimes()

    @property
    def conditions(self) -> Conditions:
        """What sizes in the model's code demand."""
        return self._conditions

    @property
    def roles(self) -> Mapping[int, str]:
        """id of a parameter's own dimension -> the part it plays."""
        return self._roles

    @property
    def costs(self) -> Mapping[str, list[tuple[int, Dims]]]:
        """Cost name -> terms: a factor, and the dimensions whose sizes it is multiplied with."""
        return self._costs

    def own(self, name: str, tensor: torch.Tensor) -> Dims:
        """Axes of its own for a parameter or buffer; nothing is removed from those that hold integers."""
        floating = tensor.is_floating_point() or tensor.is_complex()
        integers = None if floating else Reason(Kind.INTEGERS, name)
        dims = tuple(Axis(size, integers) for size in tensor.shape)
        self._roles.update({id(dim): "" if floating else "index" for dim in dims})
        self.give(tensor, dims, [True] * tensor.dim())
        return dims

    def begin(self, training: bool) -> None:
        """Start another run; costs are those of eval mode."""
        self.steps, self.seen, self.paths[:] = [], [], []
        self._lifetimes = Lifetimes()
        self._counting = not training

    def enter(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """A torch function is being called; returns what `leave` wants."""
        outer, self.call = self.call, Call(name, args, kwargs)
        return outer

    def leave(self, outer: Call | None) -> None:
        """The call of a torch function has ended."""
        self.call = outer

    def record(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Apply the rule of an operation that has just run."""
        if has_dimensions(result):
            self.seen.append(operation)
        name = operation.name().split(".")[0]
        tensors = flat_tensors((args, kwargs))
        results = flat_tensors(result)
        followed = any(hasattr(tensor, "_icycle") for tensor in tensors)
        sizable = not tensors or name == "aten::expand"  # an index, say, repeated for every channel
        if not followed and not (results and sizable and self._has_traced_size()):
            return  # constants
        self.place = self._here(name)
        if not results:
            self._pin_all(tensors, Kind.VALUES_READ)
            return
        inputs = tuple(self.dims(tensor) for tensor in tensors)
        arguments = without_tensors((args, kwargs), self.info)
        depends_on_input = any(self.info(tensor).depends_on_input for tensor in tensors)
        self._note_use(inputs)
        rule = find_rule(operation)
        if rule is None:
            self.unknown[name] += 1
            self._pin_all(tensors, Kind.NO_RULE, name)
            for tensor in results:
                self.give(tensor, self.fixed(tensor.shape), [False] * tensor.dim())
        else:
            rule(self, operation, args, kwargs, result)
        _join_views(tensors, results)
        if depends_on_input:
            _mark_dependent(results)
        outputs = tuple(tensor._icycle.dims if hasattr(tensor, "_icycle") else None for tensor in results)
        memory = self._lifetimes.note(tensors, results)
        self.steps.append(Step(operation, self.place, inputs, outputs, arguments, memory))

    def read(self, tensor: torch.Tensor, how: str) -> None:
        """Values leave torch: nothing of the tensor may go."""
        self.place = self._here(f"torch::{how}")
        self._pin_all([tensor], Kind.VALUES_READ)

    def use(self, size: TracedInt, calculation: str, operand: int) -> None:
        """A size serves as a number: an operand (0: left, 1: right) of a calculation whose result is not followed, an
        output of the model, or a comparison's result (0 or 1), by which the code goes on."""
        site = None if calculation == "branch" else site_here(self._path, operand, calculation=calculation)
        where = self._here(_USES.get(calculation, "a calculation"))
        self._conditions.noted.append(Condition(size.origin, None, where, site, int(size)))

    def use_as_scale(self, query: torch.Tensor) -> None:
        """A fused attention takes its scale from the width of a head."""
        width = self.dims(query)[-1]
        site = site_here(self._path, keyword="scale")
        where = self._here("the scale of an attention")
        self._conditions.noted.append(Condition(FromDim(width), None, where, site, width.size**-0.5))

    @property
    def _path(self) -> str:
        return self.paths[-1] if self.paths else ""

    def _here(self, operation: str) -> Place:
        frame = user_frame(sys._getframe(2))
        source = "" if frame is None else f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        return Place(operation, self._path, source)

    def _has_traced_size(self) -> bool:
        call = self.call
        if call is None:
            return False
        if call.name == "expand_as":
            return hasattr(call.argument(1, "other"), "_icycle")
        return any(isinstance(size, TracedInt) for size in flat((call.args, call.kwargs)))

    def _pin_all(self, tensors: Iterable[torch.Tensor], why: Kind, detail: str = "") -> None:
        reason = self._reason(why, detail)
        for tensor in tensors:
            for dim in self.dims(tensor):
                pin(dim, reason)

    def _note_use(self, inputs: tuple[Dims, ...]) -> None:
        for dims in inputs:
            for dim in dims:
                if id(dim) in self._roles:
                    self.used.append(dim)


def _join_views(tensors: Iterable[torch.Tensor], results: Iterable[torch.Tensor]) -> None:
    """Results that share the memory of an operand, whether their rule says so or not (detach, unfold, alias)."""
    for result in results:
        known: Info | None = getattr(result, "_icycle", None)
        for tensor in tensors:
            base: Info | None = getattr(tensor, "_icycle", None)
            if known is None or base is None or base is known:
                continue
            if torch._C._is_alias_of(result, tensor):  # type: ignore[attr-defined]
                known.join(base)


def _mark_dependent(results: Iterable[torch.Tensor]) -> None:
    """Mark results that depend on the inputs, and all that shares their memory."""
    for tensor in results:
        known = getattr(tensor, "_icycle", None)
        if known is not None and not known.depends_on_input:
            for view in known.memory:
                view.depends_on_input = True
