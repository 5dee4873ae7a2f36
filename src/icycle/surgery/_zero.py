"""What a removal is compared with: the same channels, silenced."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from icycle.structure import Structure, SubNetwork
from icycle.tracing import named_tensors

__all__ = ["zero"]


@torch.no_grad()
def zero(model: nn.Module, structure: Structure, subnet: SubNetwork) -> None:
    """Set to zero, in place, all parameters of the channels that `subnet` does not keep; running variances to one."""
    for path, name in structure.caches:
        setattr(model.get_submodule(path), name, {})
    tensors = dict(named_tensors(model))
    for (name, dim, value), positions in _gone(structure, subnet).items():
        index = torch.from_numpy(np.concatenate(positions)).to(tensors[name].device)
        tensors[name].index_fill_(dim, index, value)


def _gone(structure: Structure, subnet: SubNetwork) -> dict[tuple[str, int, float], list[np.ndarray]]:
    """(parameter or buffer, dimension, new value) -> the positions of removed channels."""
    found: dict[tuple[str, int, float], list[np.ndarray]] = {}
    for group, mask in zip(structure.prunable, subnet.masks(structure), strict=True):
        if mask.all():
            continue
        for piece in group.slices:
            key = (piece.parameter, piece.dim, 1.0 if piece.role == "variance" else 0.0)
            found.setdefault(key, []).append(piece.index[~mask].reshape(-1))
    return found
