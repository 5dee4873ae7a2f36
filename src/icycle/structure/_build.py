"""From a live trace to a frozen structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from icycle.axes import Axis, Dim, Polynomial, count, leaves
from icycle.structure._cost import Cost
from icycle.structure._layout import fingerprint, freeze, positions
from icycle.structure._operations import frozen_operations
from icycle.structure._structure import Attribute, Example, Group, Rewrite, Slice, Structure
from icycle.tracing import Dims, Edit, Trace

__all__ = ["build", "channel_axes"]

_NEVER = 10**9  # the place of what was not used, behind all that was


def build(trace: Trace) -> Structure:
    """Freeze what is known now; the trace may be refined and built again."""
    trace.pin_all_but(channel_axes(trace))
    attributes = trace.attributes()  # settles the sizes: it may pin and join axes
    axes = channel_axes(trace)
    numbers = {axis.created: number for number, axis in enumerate(axis for axis in axes if axis.pinned is None)}
    layouts = {name: tuple(freeze(dim, numbers) for dim in dims) for name, dims in trace.dims.items()}
    costs = {
        name: Cost((_term(factor, dims) for factor, dims in terms), numbers, len(numbers))
        for name, terms in trace.costs.items()
    }
    slices = _slices(trace, axes)
    names = _names(axes, slices)
    rewrites = _rewrites(trace, numbers)
    return Structure(
        groups=tuple(_group(axis, names[axis.created], slices[axis.created]) for axis in axes),
        layouts=layouts,
        costs=costs,
        attributes=tuple(Attribute(*key, value.renamed(numbers)) for key, value in attributes.items()),
        rewrites=rewrites,
        fingerprint=fingerprint(layouts),
        caches=trace.caches,
        operations=tuple(frozen_operations(trace.runs[0][1], numbers)),
        example=Example(trace.inputs, trace.meta, trace.hooks, trace.output_shapes),
        notes=(*trace.notes, *_notes(rewrites)),
        unknown_operations=dict(trace.tracer.unknown),
    )


def _rewrites(trace: Trace, numbers: Mapping[int, int]) -> tuple[Rewrite, ...]:
    """The same edit of the same module once, with all groups that it is needed for."""
    groups: dict[tuple[str, Edit], set[int]] = {}
    for rewrite in trace.rewrites:
        own = {numbers[axis.created] for dim in rewrite.dims for axis in leaves(dim) if axis.created in numbers}
        groups.setdefault((rewrite.path, rewrite.edit), set()).update(own)
    return tuple(Rewrite(path, edit, frozenset(needed)) for (path, edit), needed in groups.items())


def _notes(rewrites: tuple[Rewrite, ...]) -> Iterator[str]:
    if rewrites:
        modules = {rewrite.path for rewrite in rewrites}
        first = rewrites[0]
        yield (
            f"in {len(modules)} modules the code says a size that a removal changes; they get a copy of it with -1, or "
            f"the number it was, in its place (first: {first.path}, {first.edit.functions[-1]})"
        )


def _term(factor: int, dims: Dims) -> Polynomial:
    term = Polynomial.constant(factor)
    for dim in dims:
        term = term * count(dim)
    return term


def channel_axes(trace: Trace) -> list[Axis]:
    """The root axes that make up channel dimensions of parameters, front to back: in the order in which the run used
    what produces them, or else what consumes them."""
    places: dict[int, tuple[bool, int, int, int]] = {}
    found: dict[int, Axis] = {}
    order = trace.order()
    for number, (name, _, dim, role) in enumerate(_channel_dims(trace)):
        own = [axis for axis in leaves(dim) if axis.size > 1]
        some_free = any(axis.pinned is None for axis in own)
        for place, axis in enumerate(own):
            if some_free and axis.pinned is not None:
                continue  # a fixed factor or part of a dimension whose other axes can be pruned
            key = (role != "out", order.get(id(dim), _NEVER), number, place)
            places[axis.created] = min(places.get(axis.created, key), key)
            if name not in trace.buffers:
                found[axis.created] = axis
    return sorted(found.values(), key=lambda axis: places[axis.created][1:])


def _channel_dims(trace: Trace) -> Iterator[tuple[str, int, Dim, str]]:
    """Every dimension of a parameter or buffer that holds channels: its name, position, expression and role."""
    for name, dims in trace.dims.items():
        for position, dim in enumerate(dims):
            role = trace.role(dim)
            if not role:  # no operation said; torch's weights are (out, in, ...)
                role = ("out", "in")[position] if len(dims) > 1 and position < 2 else "other"
            if role not in ("kernel", "index"):
                yield name, position, dim, role


def _slices(trace: Trace, axes: list[Axis]) -> Mapping[int, tuple[Slice, ...]]:
    numbers = {axis.created: number for number, axis in enumerate(axes)}
    found: dict[int, list[Slice]] = {axis.created: [] for axis in axes}
    for name, position, dim, role in _channel_dims(trace):
        own = {axis.created: axis for axis in leaves(dim) if axis.created in numbers}
        layout = freeze(dim, numbers) if own else None
        for created, axis in own.items():
            index = positions(layout, numbers[created], axis.size) if layout is not None else None
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
