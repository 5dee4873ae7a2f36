"""Relates the dimensions of every tensor that a run meets, by the rules of the operations."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from icycle.axes import Axis, Dim, count, leaves, mark_inexact, pin, regroup, resolve, unify
from icycle.tracing._code import site_here, user_frame
from icycle.tracing._conditions import Condition, Conditions
from icycle.tracing._operands import without_tensors
from icycle.tracing._registry import find_rule
from icycle.tracing._sizes import FromAttribute, FromDim, Operation, Origin, TracedInt, origin_of

__all__ = ["Call", "Dims", "Info", "Step", "Tracer", "flat_tensors"]

Dims = tuple[Dim, ...]

_ITSELF = "the model itself"


@dataclass
class Info:
    """What is known of a tensor.

    `zero[d]` says that the tensor is zero at every removed element of dimension d, when the parameters of the removed
    channels are zero. `base` is the tensor of which this one is a view. `fed` says that it depends on the model's
    inputs: other tensors are weights, or made of weights alone.
    """

    dims: Dims
    zero: list[bool]
    base: Info | None = None
    fed: bool = False


@dataclass(frozen=True)
class Step:
    """One operation of a run: the ATen operation, the module path and source line it ran at, the dimensions it touched,
    and its (positional, keyword) arguments with an `Operand` for every tensor."""

    operation: Any
    where: str
    inputs: tuple[Dims, ...]
    outputs: tuple[Dims | None, ...]
    arguments: tuple[Any, Any] = ((), {})


@dataclass(frozen=True)
class Call:
    """A call of a torch function from Python, before torch reduced its sizes to plain numbers."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position (self is 0) or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def variadic(self, position: int, *names: str) -> list[Any]:
        """Sizes that may be passed one by one, as one sequence, or by name."""
        given: Any = self.args[position:]
        if not given:
            given = next((self.kwargs[name] for name in names if name in self.kwargs), ())
        elif isinstance(given[0], (tuple, list)):
            given = given[0]
        return list(given) if isinstance(given, (tuple, list)) else [given]


@dataclass
class Tracer:
    """The state of a trace, which the rules read and write through the methods below."""

    head_width: bool = False
    counting: bool = True
    steps: list[Step] = field(default_factory=list)
    roles: dict[int, str] = field(default_factory=dict)  # id of a parameter's own axis -> role
    used: list[Dim] = field(default_factory=list)  # the parameters' axes, in the order in which they were used
    unknown: Counter[str] = field(default_factory=Counter)
    costs: dict[str, list[tuple[int, Dims]]] = field(default_factory=lambda: {"macs": [], "activation_bytes": []})
    paths: list[str] = field(default_factory=list)
    call: Call | None = None
    where: str = ""
    conditions: Conditions = field(default_factory=Conditions)

    # ---- what rules call ----

    def info(self, tensor: torch.Tensor) -> Info:
        """What is known of `tensor`; all dimensions of a constant are pinned."""
        known = getattr(tensor, "_icycle", None)
        if known is None:
            dims = tuple(Axis(size, f"a constant tensor in {self.where}") for size in tensor.shape)
            known = Info(dims, [False] * len(dims))
        return known

    def dims(self, tensor: torch.Tensor) -> Dims:
        """The dimensions of `tensor`."""
        return self.info(tensor).dims

    def give(
        self, tensor: torch.Tensor | None, dims: Sequence[Dim], zero: Sequence[bool], base: Info | None = None
    ) -> None:
        """Record the dimensions of a result."""
        if tensor is None:
            return
        known = getattr(tensor, "_icycle", None)
        if known is not None and not all(zero):
            while known is not None:  # written in place: the tensors it is a view of are no longer known to be zero
                known.zero = [False] * len(known.zero)
                known = known.base
        tensor._icycle = Info(tuple(dims), list(zero), base)  # type: ignore[attr-defined]

    def unify(self, a: Dim, b: Dim) -> None:
        """Make two dimensions the same."""
        unify(a, b, self.where)

    def unify_all(self, a: Iterable[Dim], b: Iterable[Dim]) -> None:
        """Make dimensions the same, pair by pair."""
        for x, y in zip(a, b, strict=True):
            self.unify(x, y)

    def pin(self, dim: Dim, why: str) -> None:
        """Forbid removal from `dim`."""
        pin(dim, f"{why}: {self.where}")

    def inexact(self, dim: Dim, why: str) -> None:
        """Removing from `dim` is not the same as zeroing."""
        mark_inexact(dim, f"{why}: {self.where}")

    def fixed(self, sizes: Iterable[int], why: str = "computed") -> Dims:
        """Fresh dimensions from which nothing can be removed."""
        return tuple(Axis(size, f"{why}: {self.where}") for size in sizes)

    def cost(self, name: str, factor: int, dims: Iterable[Dim]) -> None:
        """Add `factor` times the sizes of `dims` to a cost."""
        if self.counting:
            self.costs[name].append((factor, tuple(dims)))

    def role(self, dim: Dim, role: str) -> None:
        """Record what part a parameter's own axis plays, once."""
        if id(dim) in self.roles and self.roles[id(dim)] == "":
            self.roles[id(dim)] = role

    def view(self, dims: Sequence[Dim], sizes: Sequence[int], given: Sequence[Any] | None) -> Dims:
        """The dimensions after a reshape; `given` are the sizes as the caller wrote them, None inside torch's own code.

        Torch's own code computes its sizes from the tensors, so what it merges stays right; where it splits an axis,
        the constant it used is unknown, and the axis is pinned."""
        before = [axis for dim in dims for axis in leaves(dim)]
        after = regroup(dims, sizes, self.where)
        if given is None:
            for axis in before:
                if not isinstance(resolve(axis), Axis):
                    pin(axis, f"split at an unknown constant: {self.where}")
            return after
        for place, (size, dim) in enumerate(zip(given, after, strict=True)):
            if size != -1:
                self.constrain(size, dim, None if -1 in given else (place, len(given)))
        return after

    def constrain(self, size: Any, dim: Dim, place: tuple[int, int] | None = None) -> None:
        """`size`, as written by the caller, must remain the number of kept elements of `dim`.

        `place` (which one, of how many) is given for a size of a reshape that could as well be -1.
        """
        origin = origin_of(size)
        if isinstance(origin, FromDim):
            self._same_count(origin.dim, dim, origin, place)
        elif isinstance(origin, FromAttribute):
            known = self.conditions.attributes.setdefault(origin.key, dim)
            if known is not dim:
                self._same_count(known, dim, origin, place)
        elif isinstance(origin, Operation):
            self._require(origin, dim, place)
        elif dim.size != 1:
            self.pin(dim, f"the code says {int(size)}")

    def _same_count(self, known: Dim, dim: Dim, origin: Origin, place: tuple[int, int] | None) -> None:
        """Equal numbers are enough; where nothing guarantees them, the dimensions are made the same."""
        if known.size != dim.size:
            self.pin(dim, f"the size {dim.size} comes from a dimension of {known.size}")
            self.pin(known, f"the size {known.size} is used for a dimension of {dim.size}")
        elif place is not None or count(known) == count(dim):
            self._require(origin, dim, place)
        else:
            self.unify(known, dim)

    def _require(self, origin: Origin, dim: Dim, place: tuple[int, int] | None) -> None:
        site = None if place is None else site_here(self.path, *place)
        self.conditions.all.append(Condition(origin, dim, self.where, site))

    def use(self, size: TracedInt, calculation: str, operand: int) -> None:
        """A size serves as a number: an operand (0: left, 1: right) of a calculation whose result is not followed."""
        where = f"a calculation at {self.path or _ITSELF}{_source()}"
        site = site_here(self.path, operand, calculation=calculation)
        self.conditions.all.append(Condition(size.origin, None, where, site, int(size)))

    def use_as_scale(self, query: torch.Tensor) -> None:
        """A fused attention takes its scale from the width of a head."""
        width = self.dims(query)[-1]
        where = f"the scale of an attention at {self.path or _ITSELF}{_source()}"
        site = site_here(self.path, keyword="scale")
        self.conditions.all.append(Condition(FromDim(width), None, where, site, width.size**-0.5))

    # ---- what the run calls ----

    def record(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Apply the rule of an operation that has just run."""
        name = operation.name().split(".")[0]
        tensors = list(flat_tensors((args, kwargs)))
        results = list(flat_tensors(result))
        followed = any(hasattr(tensor, "_icycle") for tensor in tensors)
        if not followed and not (results and not tensors and self._sized_factory()):
            return  # constants
        self.where = f"{name} at {self.path or _ITSELF}{_source()}"
        if not results:
            self._pin_all(tensors, "values are read")
            return
        inputs = tuple(self.dims(tensor) for tensor in tensors)
        arguments = without_tensors((args, kwargs), self.dims)
        fed = any(self.info(tensor).fed for tensor in tensors)
        self._note_use(inputs)
        rule = find_rule(operation)
        if rule is None:
            self.unknown[name] += 1
            self._pin_all(tensors, f"no rule for {name}")
            for tensor in results:
                self.give(tensor, self.fixed(tensor.shape), [False] * tensor.dim())
        else:
            rule(self, operation, args, kwargs, result)
        if fed:
            self._feed(results)
        outputs = tuple(tensor._icycle.dims if hasattr(tensor, "_icycle") else None for tensor in results)
        self.steps.append(Step(operation, self.where, inputs, outputs, arguments))

    def _feed(self, results: Iterable[torch.Tensor]) -> None:
        """Mark results that depend on the inputs, and the tensors that they are views of."""
        for tensor in results:
            known = getattr(tensor, "_icycle", None)
            while known is not None and not known.fed:
                known.fed = True
                known = known.base

    def read(self, tensor: torch.Tensor, how: str) -> None:
        """Values leave torch: nothing of the tensor may go."""
        self.where = f"torch::{how} at {self.path or _ITSELF}{_source()}"
        self._pin_all([tensor], "its values are read")

    @property
    def path(self) -> str:
        """The module that is running."""
        return self.paths[-1] if self.paths else ""

    def _sized_factory(self) -> bool:
        return self.call is not None and any(
            isinstance(size, TracedInt) for size in flat((self.call.args, self.call.kwargs))
        )

    def _pin_all(self, tensors: Iterable[torch.Tensor], why: str) -> None:
        for tensor in tensors:
            for dim in self.dims(tensor):
                self.pin(dim, why)

    def _note_use(self, inputs: tuple[Dims, ...]) -> None:
        for dims in inputs:
            for dim in dims:
                if id(dim) in self.roles:
                    self.used.append(dim)


def flat(value: Any) -> Iterable[Any]:
    """The leaves of nested tuples, lists and dicts."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from flat(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from flat(item)
    else:
        yield value


def flat_tensors(value: Any) -> Iterable[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    return (item for item in flat(value) if isinstance(item, torch.Tensor))


def _source() -> str:
    """The line of the model's code that is running, as " (file:line)"; "" where all of it is torch's."""
    frame = user_frame(sys._getframe(2))
    return f" ({os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno})" if frame is not None else ""
