"""Runs a shadow of the model once and relates the dimensions of every tensor it meets."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from icycle.axes import (
    Axis,
    Dim,
    Polynomial,
    count,
    is_pinned,
    leaves,
    mark_inexact,
    pin,
    product,
    regroup,
    resolve,
    unify,
)
from icycle.tracing._code import Edit, Site, find_edit, site_here, user_frame
from icycle.tracing._meta import SHORTCUTS
from icycle.tracing._registry import FUNCTION_RULES, find_rule
from icycle.tracing._sizes import (
    AttributeKey,
    FromAttribute,
    FromDim,
    Operation,
    Origin,
    TracedInt,
    evaluate,
    operands,
    origin_of,
    solve,
)

__all__ = ["Call", "Dims", "Rewrite", "Step", "Tracer"]

Dims = tuple[Dim, ...]


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
    """One operation of a run: the ATen operation, the module path and source line it ran at, and the dimensions it
    touched."""

    operation: Any
    where: str
    inputs: tuple[Dims, ...]
    outputs: tuple[Dims | None, ...]


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


@dataclass(frozen=True, eq=False)
class Condition:
    """The number that `origin` says must be the size of `dim`; or, where that is None, must stay what it is.

    `site` is the expression in the code that gives it: with `number` in its place there is no such condition.
    """

    origin: Origin
    dim: Dim | None
    where: str
    site: Site | None = None
    number: float = -1


@dataclass(frozen=True, eq=False)
class Rewrite:
    """An edit of the code of the module at `path`, needed once one of `dims` changes."""

    path: str
    edit: Edit
    dims: tuple[Dim, ...]


@dataclass
class Tracer:
    """The state of a trace, which the rules read and write through the methods below."""

    head_width: bool = False
    modules: Mapping[str, nn.Module] = field(default_factory=dict)  # of the shadow, by path
    counting: bool = True
    steps: list[Step] = field(default_factory=list)
    roles: dict[int, str] = field(default_factory=dict)  # id of a parameter's own axis -> role
    used: list[Dim] = field(default_factory=list)  # the parameters' axes, in the order in which they were used
    unknown: Counter[str] = field(default_factory=Counter)
    attributes: dict[AttributeKey, Dim] = field(default_factory=dict)
    solved: dict[AttributeKey, Polynomial] = field(default_factory=dict)
    costs: dict[str, list[tuple[int, Dims]]] = field(default_factory=lambda: {"macs": [], "activation_bytes": []})
    paths: list[str] = field(default_factory=list)
    call: Call | None = None
    where: str = ""
    rewrites: tuple[Rewrite, ...] = ()
    _conditions: list[Condition] = field(default_factory=list)
    _edits: dict[tuple[Any, int], Edit | None] = field(default_factory=dict)

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
            known = self.attributes.setdefault(origin.key, dim)
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
        self._conditions.append(Condition(origin, dim, self.where, site))

    def use(self, size: TracedInt, operand: int) -> None:
        """A size serves as a number: an operand (0: left, 1: right) of a calculation whose result is not followed."""
        where = f"a calculation at {self.path or _ITSELF}{_source()}"
        self._conditions.append(Condition(size.origin, None, where, site_here(self.path, operand), int(size)))

    def use_as_scale(self, query: torch.Tensor) -> None:
        """A fused attention takes its scale from the width of a head."""
        width = self.dims(query)[-1]
        where = f"the scale of an attention at {self.path or _ITSELF}{_source()}"
        site = site_here(self.path, keyword="scale")
        self._conditions.append(Condition(FromDim(width), None, where, site, width.size**-0.5))

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
        self.steps.append(Step(operation, self.where, inputs, outputs))

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

    def settle(self) -> None:
        """Check the conditions on sizes: solve for attributes, find edits of the code, and pin what does not hold."""
        while not self._settled():
            pass
        self.solved = {key: value for key, value in self.solved.items() if key not in self.attributes}

    def _settled(self) -> bool:
        """One pass over the conditions; False where it changed what the others depend on."""
        self.solved = {}
        changed = True
        while changed:  # one attribute may be needed to solve for another
            changed, unmet = False, []
            known = {key: count(dim) for key, dim in self.attributes.items()} | self.solved
            for condition in self._conditions:
                value = evaluate(condition.origin, known)
                if condition.dim is None:
                    if value is None or value.terms.keys() - {()}:
                        unmet.append(condition)
                    continue
                target = count(condition.dim)
                found = None if value == target else solve(condition.origin, target, known)
                if found is not None:
                    self.solved[found[0]] = known[found[0]] = found[1]
                    changed = True
                elif value != target:
                    unmet.append(condition)
        return self._settle_unmet(unmet)

    def _settle_unmet(self, unmet: list[Condition]) -> bool:
        """Force the conditions that no edit of the code removes, and only then, if there are none, note the edits."""
        places = {(condition.site.key, condition.site.part) for condition in unmet if condition.site is not None}
        calls = Counter(key for key, _ in places)
        rewrites = []
        for condition in sorted(unmet, key=lambda condition: isinstance(condition.origin, Operation)):
            site = condition.site  # equal sizes first: what is computed from them often holds then
            edit = self._edit(condition, site) if site is not None and calls[site.key] == 1 else None
            if edit is None or site is None:
                if self._force(condition):
                    return False
            else:
                rewrites.append(Rewrite(site.path, edit, tuple(self._involved(condition))))
        self.rewrites = tuple(rewrites)
        return True

    def _edit(self, condition: Condition, site: Site) -> Edit | None:
        """What frees the code of a condition.

        A size that serves as a number may change with the channels, and then makes the removal inexact, unless it is a
        quotient, as the width of a head is. With `head_width` all such numbers stay what they are.
        """
        if condition.dim is None and not (self.head_width or _divides(condition.origin)):
            return None
        key = (site.key, site.part)
        if key not in self._edits:
            self._edits[key] = find_edit(site, type(self.modules[site.path]), condition.number)
        return self._edits[key]

    def _force(self, condition: Condition) -> bool:
        """Make the sizes at the two ends of an unmet condition follow each other; True where that changed anything."""
        involved = self._involved(condition)
        if all(is_pinned(part) for part in involved):
            return False
        if condition.dim is None and not _divides(condition.origin):
            for part in involved:
                mark_inexact(part, f"its size is used as a number: {condition.where}")
            return False
        if condition.dim is not None and not isinstance(condition.origin, Operation):
            end = involved[-1]
            if end.size == condition.dim.size:
                unify(end, condition.dim, condition.where)
                if count(end) == count(condition.dim):
                    return True
        for part in involved:
            pin(part, f"its size is computed from others in a way that does not follow a removal: {condition.where}")
        return True

    def sized(self) -> list[Dim]:
        """Every dimension to which an attribute or a computed size is tied."""
        tied = [part for condition in self._conditions for part in self._involved(condition)]
        return [*self.attributes.values(), *tied]

    def _involved(self, condition: Condition) -> list[Dim]:
        """The dimension of a condition, and those that its origin refers to."""
        found = [] if condition.dim is None else [condition.dim]
        for leaf in operands(condition.origin):
            if isinstance(leaf, FromDim):
                found.append(leaf.dim)
            elif isinstance(leaf, FromAttribute) and leaf.key in self.attributes:
                found.append(self.attributes[leaf.key])
        return found


def _divides(origin: Origin) -> bool:
    """True for a number with a quotient in it: the width of a head, say, which is to stay what it is."""
    return isinstance(origin, Operation) and (origin.symbol == "//" or _divides(origin.left) or _divides(origin.right))


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


_ITSELF = "the model itself"
_ARITHMETIC = frozenset(way + name for way in ("", "r", "i") for name in ("add", "sub", "mul", "div", "truediv", "pow"))
_COUNTS = frozenset(("numel", "nelement"))
_READERS = frozenset(("numpy", "tolist", "__array__", "data_ptr"))  # what becomes of the values is not seen
_SHAPE_GETTERS = {torch.Tensor.shape.__get__, torch.Tensor.size}  # type: ignore[attr-defined]


class Functions(TorchFunctionMode):
    """Sees calls of torch functions from Python, and shows those that have a rule of their own to the observer.

    Given a tracer, it also gives out sizes that remember their dimension, and keeps the call for the rules.
    """

    def __init__(self, operations: Operations, tracer: Tracer | None = None) -> None:
        super().__init__()
        self._operations = operations
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", None) or resolve_name(func) or ""
        if f"torch::{name}" in FUNCTION_RULES:
            return self._operations.as_one(TorchFunction(name), func, args, kwargs)
        if self._tracer is None:
            return func(*args, **kwargs)
        if func in _SHAPE_GETTERS:
            return self._sizes(func(*args, **kwargs), args, kwargs)
        if name in _COUNTS:
            return self._count(func(*args, **kwargs), args[0])
        if name in _READERS and isinstance(args[0], torch.Tensor):
            self._tracer.read(args[0], name)
        if name.strip("_") in _ARITHMETIC:
            for place, value in enumerate(args):
                if isinstance(value, TracedInt):
                    value.report(1 - place if name.startswith("__r") else place)
        if name == "scaled_dot_product_attention" and kwargs.get("scale") is None and len(args) < 7:
            self._tracer.use_as_scale(args[0] if args else kwargs["query"])
        outer = self._tracer.call
        self._tracer.call = Call(name, tuple(args), kwargs)
        try:
            return func(*args, **kwargs)
        finally:
            self._tracer.call = outer

    def _count(self, result: int, tensor: torch.Tensor) -> int:
        known = getattr(tensor, "_icycle", None)
        if known is None or self._tracer is None:
            return result
        return TracedInt(result, FromDim(product(known.dims), self._tracer.use))

    def _sizes(self, result: Any, args: Any, kwargs: Any) -> Any:
        known = getattr(args[0], "_icycle", None)
        if known is None or self._tracer is None:
            return result
        use = self._tracer.use
        if isinstance(result, torch.Size):
            sizes = zip(result, known.dims, strict=True)
            return torch.Size([TracedInt(size, FromDim(dim, use)) for size, dim in sizes])
        position = args[1] if len(args) > 1 else kwargs["dim"]
        return TracedInt(result, FromDim(known.dims[position], use))


@dataclass(frozen=True)
class TorchFunction:
    """A torch function that has a rule of its own, in the place of the many operations it is made of."""

    function: str
    tags: tuple[Any, ...] = ()

    def name(self) -> str:
        return f"torch::{self.function}"


Observer = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]


class Operations(TorchDispatchMode):
    """Runs every ATen operation, on the meta device as soon as one operand is there, and shows it to an observer."""

    def __init__(self, observe: Observer, meta: bool) -> None:
        super().__init__()
        self._observe = observe
        self._meta = meta
        self._within = False  # an operation that is observed as one

    def as_one(self, operation: Any, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run `func` and observe it as one operation, unless it is part of another such."""
        outer, self._within = self._within, True
        try:
            result = func(*args, **kwargs)
        finally:
            self._within = outer
        if not outer:
            self._observe(operation, tuple(args), kwargs, result)
        return result

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if self._meta:
            result = _run_with_meta(func, args, kwargs)
        else:
            result = func(*args, **kwargs)
        if not self._within:
            self._observe(func, args, kwargs, result)
        return result


def _run_with_meta(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run on the meta device where an operand is a meta tensor; else keep integer results real, for code to read."""
    tensors = list(flat_tensors((args, kwargs)))
    if any(tensor.is_meta for tensor in tensors):
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("meta")}
        if any(not tensor.is_meta for tensor in tensors):
            args, kwargs = _to_meta(args), _to_meta(kwargs)
        shortcut = SHORTCUTS.get(func)
        result = None if shortcut is None else shortcut(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result
    if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta":
        dtype = kwargs.get("dtype")
        if dtype is None or not (dtype.is_floating_point or dtype.is_complex) or tensors:
            kwargs = {**kwargs, "device": torch.device("cpu")}
    return func(*args, **kwargs)


def _to_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (
            value
            if value.is_meta
            else torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        )
    if isinstance(value, (tuple, list)):
        return type(value)([_to_meta(item) for item in value])
    if isinstance(value, dict):
        return {key: _to_meta(item) for key, item in value.items()}
    return value
