"""From a live trace to a frozen structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from icycle.axes import Axis, Polynomial, count, leaves
from icycle.structure._cost import Cost
from icycle.structure._group import Group, Slice
from icycle.structure._layout import freeze, positions
from icycle.structure._memory import Peak
from icycle.structure._operations import Operations
from icycle.structure._structure import Attribute, Example, Rewrite, Structure
from icycle.tracing import Dims, Edit, Trace

__all__ = ["build"]


def build(trace: Trace) -> Structure:
    """Freeze what a settled trace knows now; the trace is only read."""
    axes = trace.channel_axes()
    numbers = {axis.created: number for number, axis in enumerate(axis for axis in axes if axis.pinned is None)}
    layouts = {name: tuple(freeze(dim, numbers) for dim in dims) for name, dims in trace.dims.items()}
    costs = {
        name: Cost((_term(factor, dims) for factor, dims in terms), numbers, len(numbers))
        for name, terms in trace.costs.items()
    }
    slices = _slices(trace, axes)
    names = _names(axes, slices)
    rewrites = _rewrites(trace, numbers)
    operations = Operations(trace.runs[0][1], numbers)
    return Structure(
        groups=tuple(_group(axis, names[axis.created], slices[axis.created]) for axis in axes),
        layouts=layouts,
        costs={**costs, "memory": Peak(operations, len(numbers))},
        attributes=tuple(Attribute(*key, value.renamed(numbers)) for key, value in trace.attributes().items()),
        rewrites=rewrites,
        caches=trace.caches,
        operations=operations,
        example=Example(trace.inputs, trace.meta, trace.hooks, trace.output_shapes, trace.also),
        notes=(*trace.notes, *_notes(rewrites)),
        unknown_operations=dict(trace.unknown_operations),
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


def _slices(trace: Trace, axes: list[Axis]) -> Mapping[int, tuple[Slice, ...]]:
    numbers = {axis.created: number for number, axis in enumerate(axes)}
    found: dict[int, list[Slice]] = {axis.created: [] for axis in axes}
    places = cache(positions)  # which are the same for most dimensions
    for name, position, dim, role in trace.channel_dims():
        for number, index in places(freeze(dim, numbers)).items():
            found[axes[number].created].append(Slice(name, position, index, role))
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
    return Group(name=name, size=axis.size, slices=slices, pinned_by=axis.pinned, inexact_by=axis.inexact)
