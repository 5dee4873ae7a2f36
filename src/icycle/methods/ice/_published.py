"""Freezing as published: the layers that a probe moves least, wherever they are.

Source: ICE-Pruning, arXiv 2505.07411, and its released code: the probe trains a copy of the dense network for one
fine-tune's length at the rate `base`, and is thrown away; the convolutions are ranked by
| sum|W_after| - sum|W_before| | / ||W_before||, in which weights that grow and weights that shrink cancel out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from icycle.methods.ice._layers import Layer

__all__ = ["least_moved", "movement", "weights_of"]

Weights = Mapping[str, Sequence[torch.Tensor]]  # layer -> those that its own module holds


def weights_of(model: nn.Module, layers: Sequence[Layer]) -> dict[str, list[torch.Tensor]]:
    """A copy of the weights that each layer's own module holds."""
    modules = dict(model.named_modules())
    return {
        layer.name: [parameter.detach().clone() for parameter in modules[layer.name].parameters(recurse=False)]
        for layer in layers
    }


def movement(before: Weights, after: Weights) -> dict[str, float]:
    """| sum|W_after| - sum|W_before| | / ||W_before|| of each layer; infinite where it has no weights but zeros."""
    return {name: _moved(weights, after[name]) for name, weights in before.items()}


def _moved(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    old, new = (torch.cat([weight.double().flatten() for weight in weights]) for weights in (before, after))
    size = float(old.norm())
    return abs(float(new.abs().sum() - old.abs().sum())) / size if size > 0 else math.inf


def least_moved(layers: Sequence[Layer], moved: Mapping[str, float], share: float) -> tuple[Layer, ...]:
    """The ceil(share * N) of the N convolutions that moved least, in the order of execution.

    The stem, the first layer of all, and the last one always train.
    """
    candidates = [layer for layer in layers[1:-1] if layer.slides]
    count = math.ceil(share * len(candidates) - 1e-9)
    chosen = {layer.name for layer in sorted(candidates, key=lambda layer: moved[layer.name])[:count]}
    return tuple(layer for layer in layers if layer.name in chosen)
