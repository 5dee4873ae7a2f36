"""Criteria that watch activations: running statistics of pooled, rectified outputs, never the outputs themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

from icycle.probing import forward, in_eval_mode
from icycle.saliency._data import first_batches
from icycle.saliency._registry import Scores, criterion
from icycle.saliency._slices import average, producers
from icycle.structure import Slice, Structure

__all__ = ["activation_entropy", "mean_activation"]


@criterion("mean_activation")
def mean_activation(
    model: torch.nn.Module, structure: Structure, *, loader: Iterable[Any] | None = None, batches: int = 8
) -> Scores:
    """Mean rectified output of the layers that produce a channel, over samples and positions.

    Read off the outputs of the modules that own the weights; groups that no module shows score +inf and stay whole. The
    model is run in evaluation mode, without gradients; modes and hooks are as before afterwards. Source: Pruning
    Convolutional Neural Networks for Resource Efficient Inference (Molchanov et al., ICLR 2017).

    Raises:
        CriterionError: `loader` is None or empty, or no group can be seen.
    """
    return _watch(model, structure, first_batches(loader, batches, "mean_activation"), _Mean)


@criterion("activation_entropy")
def activation_entropy(
    model: torch.nn.Module, structure: Structure, *, loader: Iterable[Any] | None = None, batches: int = 8
) -> Scores:
    """Entropy (nats) of a 20-bin histogram of a channel's rectified output, pooled to one number per sample.

    A channel that says the same of every sample tells nothing. The bins divide 0..top, where top starts at the first
    batch's largest value and doubles (pairs of bins merge) when a larger one comes, so that one pass is enough.
    Watching and errors as in `mean_activation`. Source: An Entropy-based Pruning Method for CNN Compression (Luo and
    Wu, 2017).
    """
    return _watch(model, structure, first_batches(loader, batches, "activation_entropy"), _Entropy)


class _Statistic(Protocol):
    def update(self, pooled: torch.Tensor) -> None:
        """Take in pooled activations (samples, channels), >= 0, float64 on the CPU."""

    def value(self) -> np.ndarray:
        """(channels,)"""


class _Mean:
    def __init__(self) -> None:
        self._total: torch.Tensor | float = 0.0
        self._samples = 0

    def update(self, pooled: torch.Tensor) -> None:
        self._total = self._total + pooled.sum(dim=0)
        self._samples += len(pooled)

    def value(self) -> np.ndarray:
        return (torch.as_tensor(self._total) / self._samples).numpy()


class _Entropy:
    BINS = 20

    def __init__(self) -> None:
        self._counts = torch.empty(0)
        self._top = torch.empty(0)

    def update(self, pooled: torch.Tensor) -> None:
        largest = pooled.amax(dim=0)
        if not len(self._counts):
            self._counts = torch.zeros(len(largest), self.BINS, dtype=torch.float64)
            self._top = torch.zeros_like(largest)
        self._top = torch.where(
            self._top > 0, self._top, largest
        )  # a channel silent so far has all its counts in bin 0
        while bool((outgrown := largest > self._top).any()):
            self._double(outgrown)
        width = (self._top / self.BINS).clamp(min=torch.finfo(torch.float64).tiny)
        bins = (pooled / width).long().clamp(max=self.BINS - 1)
        self._counts.scatter_add_(1, bins.T, torch.ones_like(bins.T, dtype=torch.float64))

    def _double(self, outgrown: torch.Tensor) -> None:
        merged = torch.zeros_like(self._counts)
        merged[:, : self.BINS // 2] = self._counts.view(len(self._counts), -1, 2).sum(dim=2)
        self._counts = torch.where(outgrown[:, None], merged, self._counts)
        self._top = torch.where(outgrown, 2 * self._top, self._top)

    def value(self) -> np.ndarray:
        shares = self._counts / self._counts.sum(dim=1, keepdim=True)
        return -torch.special.xlogy(shares, shares).sum(dim=1).numpy()


def _watch(
    model: torch.nn.Module, structure: Structure, data: Iterable[Any], statistic: Callable[[], _Statistic]
) -> Scores:
    """Mean over the filters of each group of their statistic over `data`."""
    pieces = [piece for group in structure.prunable for piece in producers(group)]
    statistics: dict[int, _Statistic] = defaultdict(statistic)
    with in_eval_mode(model), torch.no_grad(), _hooked(model, pieces, lambda piece: statistics[id(piece)]):
        for batch in data:
            forward(model, batch)
    seen = {key: statistic.value() for key, statistic in statistics.items()}
    return average(model, structure, producers, lambda piece: seen.get(id(piece)))


@contextmanager
def _hooked(
    model: torch.nn.Module, pieces: Iterable[Slice], statistic_of: Callable[[Slice], _Statistic]
) -> Iterator[None]:
    """Within the block, every call of a module that owns one of the weights updates the statistics of its slices."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters(remove_duplicate=False)}
    owned: dict[str, list[Slice]] = defaultdict(list)
    for piece in pieces:
        owned[_owner(piece.parameter)].append(piece)

    def hook(watched: list[Slice]) -> Callable[..., None]:
        def update(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            for piece in watched:
                pooled = _pool(output, shapes[piece.parameter], piece.dim)
                if pooled is not None:
                    statistic_of(piece).update(pooled[:, torch.tensor(piece.index)].mean(dim=2))

        return update

    handles = [model.get_submodule(path).register_forward_hook(hook(watched)) for path, watched in owned.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _owner(parameter: str) -> str:
    """The path of the layer that a parameter belongs to, also where it is part of a parametrised weight."""
    layer, parametrised, _ = parameter.partition(".parametrizations.")
    return layer if parametrised else parameter.rpartition(".")[0]


def _pool(output: Any, shape: torch.Size, dim: int) -> torch.Tensor | None:
    """(samples, channels), rectified and averaged over positions; None where `output` is not what the weight produces.

    A weight with k kernel dimensions produces channels that stand before k spatial dimensions.
    """
    output = output[0] if isinstance(output, tuple | list) and output else output
    axis = 1 - len(shape)
    if not isinstance(output, torch.Tensor) or axis == 0 or output.dim() < -axis or output.shape[axis] != shape[dim]:
        return None
    positions = output.relu().movedim(axis, -1)
    samples = positions if positions.dim() > 1 else positions[None]
    pooled = samples.flatten(1, -2).mean(dim=1) if samples.dim() > 2 else samples
    return pooled.cpu().double()
