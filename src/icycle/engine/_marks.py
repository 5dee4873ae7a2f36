"""What a proof writes into a trace: from the names of groups to their axes."""

from __future__ import annotations

from icycle.axes import Axis
from icycle.structure import Structure
from icycle.tracing import Trace

__all__ = ["free_axes"]


def free_axes(found: Trace, structure: Structure) -> dict[str, Axis]:
    """Name -> axis of every prunable group of the structure just built from `found`."""
    pairs = zip(structure.groups, found.channel_axes(), strict=True)
    return {group.name: axis for group, axis in pairs if group.prunable}
