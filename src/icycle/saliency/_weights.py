"""Criteria that read nothing but the weights."""

from __future__ import annotations

import numpy as np
import torch

from icycle.saliency._registry import Scores, criterion
from icycle.saliency._slices import average, filters, parameters_of, place, reduce_slices, scales, weights
from icycle.structure import Slice, Structure

__all__ = ["bn_scale", "geometric_median", "group_norm", "l1", "l2", "random"]


@criterion("group_norm")
def group_norm(model: torch.nn.Module, structure: Structure) -> Scores:
    """Mean over a group's members of ||slice||^2 / sqrt(n), n being the number of elements in one channel's slice.

    A layer that produces channel c contributes ||W[c, :]||^2 / sqrt(n), one that consumes it ||W[:, c]||^2 / sqrt(n),
    a normalisation layer gamma_c^2. No root and no normalisation within a group, so groups can be compared with each
    other. Source: One-Cycle Structured Pruning (arXiv 2501.13439); here over all members, depthwise and normalisation
    layers too.
    """
    return reduce_slices(model, structure, weights, _square, lambda total, n: total / np.sqrt(n))


@criterion("l1")
def l1(model: torch.nn.Module, structure: Structure) -> Scores:
    """Mean absolute weight of the filters that produce a channel.

    Source: Pruning Filters for Efficient ConvNets (Li et al., ICLR 2017). Its sum is a mean here, which keeps the order
    within a layer and makes layers with filters of unlike sizes comparable.
    """
    return reduce_slices(model, structure, filters, _absolute, lambda total, n: total / n)


@criterion("l2")
def l2(model: torch.nn.Module, structure: Structure) -> Scores:
    """Root mean square weight of the filters that produce a channel.

    Source: Soft Filter Pruning (He et al., IJCAI 2018); root mean square for its norm, as in `l1`.
    """
    return reduce_slices(model, structure, filters, _square, lambda total, n: np.sqrt(total / n))


@criterion("bn_scale")
def bn_scale(model: torch.nn.Module, structure: Structure) -> Scores:
    """Mean |gamma| of the normalisation layers on a channel; groups without one score +inf and stay whole.

    Source: Learning Efficient Convolutional Networks through Network Slimming (Liu et al., ICCV 2017).
    """
    return reduce_slices(model, structure, scales, _absolute, lambda total, n: total / n)


@criterion("geometric_median")
def geometric_median(model: torch.nn.Module, structure: Structure) -> Scores:
    """Mean distance of a channel's filter to all filters of its layer: the filter nearest to the others can be spared.

    Source: Filter Pruning via Geometric Median (FPGM, He et al., CVPR 2019), whose sum over filters is a mean here, and
    divided by sqrt(n), as in `l1`.
    """
    parameters = parameters_of(model, (piece for group in structure.prunable for piece in filters(group)))
    return average(model, structure, filters, lambda piece: _distances(parameters[place(piece)].detach(), piece))


@criterion("random")
def random(model: torch.nn.Module, structure: Structure, *, seed: int = 0) -> Scores:
    """Uniform in 0..1, the same for the same seed: what every criterion must beat."""
    generator = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.size, generator=generator, device="cpu") for group in structure.prunable}


def _square(weights: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    return torch.square(weights, out=buffer)


def _absolute(weights: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    return torch.abs(weights, out=buffer)


def _distances(parameter: torch.Tensor, piece: Slice) -> np.ndarray:
    """(size,): the mean Euclidean distance of each channel's slice to all of them, over sqrt(n)."""
    index = torch.tensor(piece.index, device=parameter.device)
    slices = parameter.index_select(piece.dim, index.flatten()).movedim(piece.dim, 0).reshape(len(piece.index), -1)
    slices = slices.float() if slices.dtype in (torch.float16, torch.bfloat16) else slices
    distances = torch.cdist(slices, slices).mean(dim=1) / slices.shape[1] ** 0.5
    return distances.cpu().double().numpy()
