"""The structure of a model after a removal, worked out from the one before it.

A trace takes a second on a deep network, and a method that removes channels thirty times needs its result thirty
times. But all a trace finds out, save the sizes, is the same afterwards: what is coupled with what, the costs as
polynomials in the kept counts, the attributes that follow a count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from icycle.structure._layout import Channels, Concat, Fixed, Layout, Outer, positions
from icycle.structure._structure import Group, Structure
from icycle.structure._subnetwork import SubNetwork

__all__ = ["after_removal"]


def after_removal(structure: Structure, subnet: SubNetwork) -> Structure:
    """What tracing again would give, for the prunable groups, once the model has lost what `subnet` does not keep."""
    sizes = [int(count) for count in subnet.counts(structure)]
    layouts = {name: tuple(_resized(dim, sizes) for dim in dims) for name, dims in structure.layouts.items()}
    groups = tuple(_resized_group(group, number, sizes, layouts) for number, group in enumerate(structure.prunable))
    return replace(structure, groups=groups, layouts=layouts)


def _resized(layout: Layout, sizes: Sequence[int]) -> Layout:
    if isinstance(layout, Fixed):
        return layout
    if isinstance(layout, Channels):
        return Channels(layout.group, sizes[layout.group])
    if isinstance(layout, Concat):
        return Concat(tuple(_resized(part, sizes) for part in layout.parts))
    return Outer(tuple(_resized(factor, sizes) for factor in layout.factors))


def _resized_group(group: Group, number: int, sizes: Sequence[int], layouts: dict[str, tuple[Layout, ...]]) -> Group:
    slices = tuple(
        replace(piece, index=positions(layouts[piece.parameter][piece.dim])[number]) for piece in group.slices
    )
    return replace(group, size=sizes[number], slices=slices)
