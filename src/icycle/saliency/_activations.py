"""Criteria that watch activations: running statistics of what consumers read, never the activations themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch

from icycle.errors import CriterionError
from icycle.probing import Reading, forward, in_eval_mode, watching
from icycle.saliency._data import first_batches
from icycle.saliency._registry import Scores, criterion
from icycle.saliency._slices import Place, average, consumers, place
from icycle.structure import Structure
from icycle.tracing import flat_tensors, undisturbed

__all__ = ["activation_entropy", "mean_activation"]


@criterion("mean_activation")
def mean_activation(
    model: torch.nn.Module, structure: Structure, *, loader: Iterable[Any] | None = None, batches: int = 8
) -> Scores:
    """Mean magnitude of a channel where it is read, over samples and positions.

    That is the input of the layers that consume the channel, behind normalisation and non-linearity, not the output of
    the layer that produces it. The mean over all consumers counts; groups that no weight is seen to read (but for
    parametrised ones, a weight that is computed is not seen) score +inf and stay whole. The model is run in evaluation
    mode, without gradients; modes are as before afterwards. Source: Pruning Convolutional Neural Networks for Resource
    Efficient Inference (Molchanov et al., ICLR 2017).

    Raises:
        CriterionError: `loader` is None or empty, no group can be seen, or activations are not finite.
    """
    return _watch(model, structure, first_batches(loader, batches, "mean_activation"), _Mean)


@criterion("activation_entropy")
def activation_entropy(
    model: torch.nn.Module, structure: Structure, *, loader: Iterable[Any] | None = None, batches: int = 8
) -> Scores:
    """Entropy (nats) of a 20-bin histogram of a channel's magnitude where it is read, pooled to one number per sample.

    A channel that says the same of every sample tells nothing. The bins divide 0..top, where top starts at the first
    batch's largest value and doubles (pairs of bins merge) when a larger one comes, so that one pass is enough. Samples
    are counted along the first dimension of a batch's first tensor; what a layer reads without a dimension of as many
    (tokens that the network itself has gathered) is a sample each. Watching and errors as in `mean_activation`. Source:
    An Entropy-based Pruning Method for CNN Compression (Luo and Wu, 2017).
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
    """Mean over the consumers of each group of the statistic, over `data`, of what they read of its channels."""
    wanted = {place(piece) for group in structure.prunable for piece in consumers(group)}
    statistics: dict[Place, dict[int, _Statistic]] = defaultdict(lambda: defaultdict(statistic))
    samples = 0

    def observe(reading: Reading) -> None:
        key = (reading.parameter, reading.dim)
        if key in wanted:
            # parts of a weight may read different tensors, the joint projections of an attention say
            statistics[key][reading.rows.start].update(_pooled(reading, samples))

    with in_eval_mode(model), torch.no_grad(), watching(model, observe, computed=True):
        for batch in data:
            samples = next((len(tensor) for tensor in flat_tensors(batch) if tensor.dim()), 0)
            with undisturbed(model):
                forward(model, batch)
    seen = {key: np.mean([part.value() for part in parts.values()], axis=0) for key, parts in statistics.items()}
    return average(
        model,
        structure,
        consumers,
        lambda piece: seen[place(piece)][piece.index].mean(axis=1) if place(piece) in seen else None,
    )


def _pooled(reading: Reading, samples: int) -> torch.Tensor:
    """(samples, channels): mean magnitude over the positions of (samples, channels, ...), finite."""
    magnitude = reading.inputs.abs()
    magnitude = magnitude.to(torch.promote_types(magnitude.dtype, torch.float32))
    if samples in reading.folded:
        apart = magnitude.unflatten(0, reading.folded).movedim(reading.folded.index(samples), 0)
        magnitude = apart.movedim(-1, 1)
    pooled = (magnitude.flatten(2).mean(dim=2) if magnitude.dim() > 2 else magnitude).cpu().double()
    if not pooled.isfinite().all():
        raise CriterionError(
            f"Expected finite activations in front of {reading.parameter!r}, but there are others on these batches; "
            "look for what makes them so, or choose a criterion that reads weights alone, such as 'group_norm'."
        )
    return pooled
