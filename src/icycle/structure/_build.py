"""From a live trace to a frozen structure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from icycle.axes import Axis, count, leaves
from icycle.structure._cost import Cost
from icycle.structure._layout import Layout, freeze, positions
from icycle.structure._structure import Attribute, Group, Slice, Structure
from icycle.tracing import Trace

__all__ = ["build"]

_CHANNEL_ROLES = ("out", "in", "scale", "shift", "state", "variance", "other")


def build(trace: Trace) -> Structure:
    """Freeze what is known now; the trace may be refined and built again."""
    trace.pin_all_but(ordered_axes(trace))
    attributes = trace.attributes()  # settles the sizes: it may pin and join axes
    axes = ordered_axes(trace)
    free = [axis for axis in axes if axis.pinned is None]
    numbers = {axis.created: number for number, axis in enumerate(free)}
    layouts = {name: tuple(freeze(dim, numbers) for dim in dims) for name, dims in trace.dims.items()}
    costs = {
        name: Cost((_term(factor, dims) for factor, dims in terms), numbers, len(free))
        for name, terms in trace.costs.items()
    }
    slices = _slices(trace, axes)
    axes = [axis for axis in axes if axis.pinned is None or _in_parameters(trace, slices[axis.created])]
    names = _names(axes, slices)
    groups = tuple(_group(axis, names[axis.created], slices[axis.created]) for axis in axes)
    return Structure(
        groups=groups,
        layouts=layouts,
        costs=costs,
        attributes=tuple(Attribute(*key, value.renamed(numbers)) for key, value in attributes.items()),
        fingerprint=_fingerprint(layouts),
        notes=trace.notes,
    )


def _in_parameters(trace: Trace, slices: tuple[Slice, ...]) -> bool:
    return any(piece.parameter not in trace.buffers for piece in slices)


def _term(factor: int, dims: tuple) -> object:  # type: ignore[type-arg]
    from icycle.axes import Polynomial

    term = Polynomial.constant(factor)
    for dim in dims:
        term = term * count(dim)
    return term


def _role(trace: Trace, name: str, dim: object, position: int, rank: int) -> str:
    role = trace.role(dim)  # type: ignore[arg-type]
    if role:
        return role
    if rank > 1:
        return ("out", "in")[position] if position < 2 else "other"
    return "other"


def ordered_axes(trace: Trace) -> list[Axis]:
    """The root axes that make up channel dimensions of parameters, in the order in which the run used them."""
    order = trace.order()
    first: dict[int, tuple[int, int]] = {}
    found: dict[int, Axis] = {}
    for number, (name, dims) in enumerate(trace.dims.items()):
        for position, dim in enumerate(dims):
            role = _role(trace, name, dim, position, len(dims))
            if role in ("kernel", "index"):
                continue
            own = [axis for axis in leaves(dim) if axis.size > 1]
            some_free = any(axis.pinned is None for axis in own)
            for place, axis in enumerate(own):
                if some_free and axis.pinned is not None:
                    continue  # a fixed factor or part of a dimension whose other axes can be pruned
                produced = 0 if role == "out" else 1
                key = (produced, order.get(id(dim), 10**9), number, place)
                found[axis.created] = axis
                first[axis.created] = min(first.get(axis.created, key), key)  # type: ignore[type-var]
    rank = {created: (key[1], key[2], key[3]) for created, key in first.items()}  # type: ignore[misc]
    return sorted(found.values(), key=lambda axis: rank[axis.created])


def _slices(trace: Trace, axes: list[Axis]) -> Mapping[int, tuple[Slice, ...]]:
    numbers = {axis.created: number for number, axis in enumerate(axes)}
    found: dict[int, list[Slice]] = {axis.created: [] for axis in axes}
    for name, dims in trace.dims.items():
        for position, dim in enumerate(dims):
            own = {axis.created: axis for axis in leaves(dim) if axis.created in numbers}
            if not own:
                continue
            layout = freeze(dim, numbers)
            role = _role(trace, name, dim, position, len(dims))
            for created, axis in own.items():
                index = positions(layout, numbers[created], axis.size)
                if index is not None:
                    found[created].append(Slice(name, position, index, role))
    return {created: tuple(pieces) for created, pieces in found.items()}


def _names(axes: list[Axis], slices: Mapping[int, tuple[Slice, ...]]) -> dict[int, str]:
    """A group is called after the module whose parameter produces it; further groups of that module are numbered."""
    names: dict[int, str] = {}
    taken: dict[str, int] = {}
    for axis in axes:
        pieces = slices[axis.created]
        producer = next((piece for piece in pieces if piece.role == "out"), pieces[0])
        base = producer.parameter.rpartition(".")[0] or producer.parameter
        base = base if producer.role == "out" else f"{base}.{producer.role}"
        taken[base] = taken.get(base, 0) + 1
        names[axis.created] = base if taken[base] == 1 else f"{base}#{taken[base]}"
    return names


def _group(axis: Axis, name: str, slices: tuple[Slice, ...]) -> Group:
    free = axis.pinned is None
    return Group(
        name=name,
        size=axis.size,
        prunable=free,
        reason=axis.pinned or "",
        exact=free and axis.inexact is None,
        inexact_reason=axis.inexact or "",
        slices=slices,
    )


def _fingerprint(layouts: Mapping[str, tuple[Layout, ...]]) -> str:
    """A hash of the names and shapes of all parameters and buffers, and of what is coupled with what."""
    return hashlib.sha256(repr(sorted(layouts.items())).encode()).hexdigest()
