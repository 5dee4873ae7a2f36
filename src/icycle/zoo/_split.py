"""Splits in which every class keeps its share."""

from __future__ import annotations

import torch

from icycle.errors import DataError

__all__ = ["stratified_split"]


def stratified_split(labels: torch.Tensor, *, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of two parts, the second with `share` (0..1) of the examples of every class.

    Args:
        labels: int64 `(n,)`.
        share: of each class, rounded so that the total is within one of `share * n`.
        seed: chooses which.

    Returns:
        Two sorted int64 tensors that together hold every index once.
    """
    if not 0 <= share <= 1:
        raise DataError(f"Expected a share in 0..1, but got {share}")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.sort(labels[shuffled], stable=True).indices]
    # Walking the examples class by class, one is taken whenever the running total of `share` reaches the next integer:
    # every class gets its share to within one, and so does the whole.
    steps = torch.arange(len(labels) + 1, dtype=torch.float64).mul(share).add(1e-9).floor()
    taken = steps.diff() > 0
    return by_class[~taken].sort().values, by_class[taken].sort().values
