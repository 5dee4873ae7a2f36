"""What the rules of operations may use to read and relate the dimensions of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from icycle.axes import Axis, Dim, count, leaves, mark_inexact, pin, unify
from icycle.reasons import NOWHERE, Kind, Place, Reason
from icycle.tracing._conditions import Condition, Conditions
from icycle.tracing._site import site_here
from icycle.tracing._sizes import FromAttribute, FromDim, Operation, Origin, origin_of

__all__ = ["Call", "Dims", "Info", "Tracer", "Written", "flat", "flat_tensors"]

Dims = tuple[Dim, ...]


@dataclass
class Info:
    """What is known of a tensor.

    `zero[d]` says that the tensor is zero at every removed element of dimension d, when the parameters of the removed
    channels are zero. `depends_on_input` says that the model's inputs go into it: other tensors are weights, or made of
    weights alone. `views` is what is known of all tensors that share its memory, itself included: the tensor that it
    is a view of, and every other view of that one; None where nothing does.
    """

    dims: Dims
    zero: list[bool]
    depends_on_input: bool = False
    views: list[Info] | None = field(default=None, repr=False)

    @property
    def memory(self) -> list[Info]:
        """What is known of all tensors in the memory of this one."""
        return [self] if self.views is None else self.views

    def join(self, other: Info) -> None:
        """The two tensors share their memory."""
        if self is other or (self.views is not None and self.views is other.views):
            return
        own = self.memory
        other.views = other.memory
        other.views.extend(own)
        for known in own:
            known.views = other.views

    def write(self, new: Info) -> None:
        """The tensor was written to, and is `new` now: what shares its memory is zero only where `new` is."""
        clean = {id(axis) for dim, zero in zip(new.dims, new.zero, strict=True) if zero for axis in leaves(dim)}
        for known in self.memory:
            places = zip(known.dims, known.zero, strict=True)
            known.zero = [
                zero and all(axis.pinned or id(axis) in clean for axis in leaves(dim)) for dim, zero in places
            ]
        new.join(self)


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


class Written(NamedTuple):
    """A size among those of a reshape: which one, of how many, and the number that could stand there as well; or, with
    a `keyword`, the method that does the same with this number."""

    place: int
    sizes: int
    number: int = -1
    keyword: str = ""


class Tracer:
    """What a rule may use, all of it; docs/rules.md promises the same to rules of users.

    `place` is the operation that has just run, `call` the function of torch that the model's code called and that came
    down to it (None where there was none), `head_width` whether the width inside attention heads may be pruned.
    """

    def __init__(self, conditions: Conditions, head_width: bool) -> None:
        self.head_width = head_width
        self.place: Place = NOWHERE
        self.call: Call | None = None
        self._conditions = conditions
        self._roles: dict[int, str] = {}  # id of a parameter's own dimension -> role
        self._costs: dict[str, list[tuple[int, Dims]]] = {"macs": [], "activation_bytes": []}
        self._counting = True  # costs are those of eval mode

    # ---- what is known ----

    def info(self, tensor: torch.Tensor) -> Info:
        """What is known of `tensor`; all dimensions of a constant are pinned."""
        known: Info | None = getattr(tensor, "_icycle", None)
        return self._constant(tensor) if known is None else known

    def dims(self, tensor: torch.Tensor) -> Dims:
        """The dimensions of `tensor`."""
        return self.info(tensor).dims

    def _constant(self, tensor: torch.Tensor) -> Info:
        return Info(self.fixed(tensor.shape, Kind.CONSTANT), [False] * tensor.dim())

    # ---- what a result is ----

    def give(
        self, tensor: torch.Tensor | None, dims: Sequence[Dim], zero: Sequence[bool], base: Info | None = None
    ) -> None:
        """Record the dimensions of a result; `base` is what is known of the tensor that it is a view of, if it is."""
        if tensor is None:
            return
        known: Info | None = getattr(tensor, "_icycle", None)
        new = Info(tuple(dims), list(zero))
        if known is not None:
            known.write(new)
        if base is not None:
            new.join(base)
        tensor._icycle = new  # type: ignore[attr-defined]

    def fixed(self, sizes: Iterable[int], why: Kind | str = Kind.COMPUTED) -> Dims:
        """Fresh dimensions from which nothing can be removed."""
        reason = self._reason(why)
        return tuple(Axis(size, reason) for size in sizes)

    # ---- what is the same, what stays, what is seen ----

    def unify(self, a: Dim, b: Dim) -> None:
        """Make two dimensions the same."""
        unify(a, b, self.place)

    def unify_all(self, a: Iterable[Dim], b: Iterable[Dim]) -> None:
        """Make dimensions the same, pair by pair."""
        for x, y in zip(a, b, strict=True):
            self.unify(x, y)

    def pin(self, dim: Dim, why: Kind | str, detail: object = "") -> None:
        """Forbid removal from `dim`; `why` is a kind of reason, with its detail, or words of a rule's own."""
        pin(dim, self._reason(why, detail))

    def inexact(self, dim: Dim, why: Kind | str, detail: object = "") -> None:
        """Removing from `dim` is not the same as zeroing."""
        mark_inexact(dim, self._reason(why, detail))

    def constrain(self, size: Any, dim: Dim, place: Written | None = None) -> None:
        """`size`, as written by the caller, must remain the number of kept elements of `dim`.

        `place` is given for a size of a reshape that could as well be said otherwise.
        """
        origin = origin_of(size)
        if isinstance(origin, FromDim):
            self._same_count(origin.dim, dim, origin, place)
        elif isinstance(origin, FromAttribute):
            known = self._conditions.attributes.setdefault(origin.key, dim)
            if known is not dim:
                self._same_count(known, dim, origin, place)
        elif isinstance(origin, Operation):
            self._require(origin, dim, place)
        elif dim.size != 1:
            self.pin(dim, Kind.LITERAL, int(size))

    # ---- what is counted and named ----

    def cost(self, name: str, factor: int, dims: Iterable[Dim]) -> None:
        """Add `factor` times the sizes of `dims` to a cost: "macs" or "activation_bytes"."""
        if self._counting:
            self._costs[name].append((factor, tuple(dims)))

    def role(self, dim: Dim, role: str) -> None:
        """Record what part a parameter's own dimension plays, once."""
        if self._roles.get(id(dim)) == "":
            self._roles[id(dim)] = role

    # ---- inside ----

    def _reason(self, why: Kind | str, detail: object = "") -> Reason:
        if isinstance(why, Kind):
            return Reason(why, str(detail), *self.place)
        return Reason(Kind.RULE, why, *self.place)

    def _same_count(self, known: Dim, dim: Dim, origin: Origin, place: Written | None) -> None:
        """Equal numbers are enough; where nothing guarantees them, the dimensions are made the same."""
        if known.size != dim.size:
            self.pin(dim, Kind.OTHER_SIZE, f"{dim.size} comes from a dimension of {known.size}")
            self.pin(known, Kind.OTHER_SIZE, f"{known.size} is used for a dimension of {dim.size}")
        elif place is not None or count(known) == count(dim):
            self._require(origin, dim, place)
        else:
            self.unify(known, dim)

    def _require(self, origin: Origin, dim: Dim, place: Written | None) -> None:
        site = None if place is None else site_here(self.place.module, place.place, place.sizes, place.keyword)
        self._conditions.noted.append(Condition(origin, dim, self.place, site, -1 if place is None else place.number))


def flat(value: Any) -> list[Any]:
    """The leaves of nested tuples, lists and dicts."""
    found: list[Any] = []
    _collect((value,), found)
    return found


def flat_tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    return [item for item in flat(value) if isinstance(item, torch.Tensor)]


def _collect(items: Iterable[Any], found: list[Any]) -> None:
    for item in items:
        if isinstance(item, (tuple, list, dict)):
            _collect(item.values() if isinstance(item, dict) else item, found)
        else:
            found.append(item)
