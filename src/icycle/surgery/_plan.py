"""What a removal will do, worked out before anything is touched."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from icycle.errors import SubNetworkError, SurgeryError
from icycle.structure import Structure, SubNetwork
from icycle.surgery._inputs import described
from icycle.surgery._tensors import Kept, kept_part
from icycle.tracing import Caches, Edit, named_tensors

__all__ = ["Plan", "make_plan", "shapes_of"]


@dataclass(frozen=True, eq=False)
class Plan:
    """`kept` maps a parameter or buffer to a kept-index tensor per dimension (None: all of it is kept).

    `attributes` maps (module path, attribute, place in a tuple or None) to its new value; `edits` maps a module path to
    what must change in its code; `caches` are emptied.
    """

    kept: Mapping[str, Kept]
    attributes: Mapping[tuple[str, str, int | None], int]
    edits: Mapping[str, tuple[Edit, ...]]
    caches: Caches
    removed: int
    inputs: str | None = None  # what was traced on, for whoever loads the model

    def take(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What is kept of `tensor`, which is shaped like the parameter or buffer `name`."""
        return kept_part(tensor, self.kept[name])


def make_plan(model: nn.Module, structure: Structure, subnet: SubNetwork) -> Plan:
    """The plan of removing from `model` what `subnet` does not keep.

    Raises SubNetworkError where `subnet` is not of `structure` or removes nothing, SurgeryError where `structure` is
    not of `model` as it is now."""
    masks = subnet.masks(structure)
    removed = sum(int(np.count_nonzero(~mask)) for mask in masks)
    if not removed:
        raise SubNetworkError(_nothing_removed(structure))
    _check_shapes(model, structure)
    kept: dict[str, Kept] = {}
    index = functools.cache(lambda layout: _index(layout.kept(masks)))  # a layer and its norm have one
    for name, layouts in structure.layouts.items():
        indices = tuple(index(layout) for layout in layouts)
        if any(index is not None for index in indices):
            kept[name] = indices
    counts = {number: int(mask.sum()) for number, mask in enumerate(masks)}
    attributes = {(entry.module, entry.name, entry.item): entry.value(counts) for entry in structure.attributes}
    inputs = None if structure.example is None else described(structure.example.inputs)
    return Plan(kept, attributes, _edits(structure, masks), structure.caches, removed, inputs)


def _nothing_removed(structure: Structure) -> str:
    expected = "Expected a sub-network that removes at least one channel, but "
    if structure.prunable:
        return f"{expected}this one keeps all. Select one that removes some (a smaller budget), or skip the removal."
    return f"{expected}no group of the structure is prunable. print(structure) says why, group by group."


def _edits(structure: Structure, masks: Sequence[np.ndarray]) -> dict[str, tuple[Edit, ...]]:
    smaller = {number for number, mask in enumerate(masks) if not mask.all()}
    edits: dict[str, tuple[Edit, ...]] = {}
    for rewrite in structure.rewrites:
        if rewrite.groups & smaller:
            edits[rewrite.path] = (*edits.get(rewrite.path, ()), rewrite.edit)
    return edits


def _index(kept: np.ndarray) -> torch.Tensor | None:
    return None if kept.all() else torch.from_numpy(np.flatnonzero(kept))


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Those of all parameters and buffers, as a structure has them."""
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}


def _check_shapes(model: nn.Module, structure: Structure) -> None:
    shapes = shapes_of(model)
    expected = structure.shapes
    if shapes == expected:
        return
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            raise SurgeryError(
                f"Expected {name} to have the shape {expected.get(name, 'of no tensor')}, as when "
                f"the structure was traced, but it is {shapes.get(name, 'not there')}. The structure belongs to "
                "another model, or the model has been pruned since: call icycle.trace(model, example_inputs) again."
            )
