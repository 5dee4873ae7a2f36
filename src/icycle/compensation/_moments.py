"""Second moments of a vector, gathered batch by batch."""

from __future__ import annotations

import torch

__all__ = ["Moments"]


class Moments:
    """Of a vector x of n elements, of which some are kept: E[x], and E[x x_kept^T] of shape (n, kept), in float64."""

    def __init__(self, kept: torch.Tensor) -> None:
        self._kept = kept
        self._count = 0
        self._sum = torch.zeros(len(kept), dtype=torch.float64, device=kept.device)
        self._products = torch.zeros(len(kept), int(kept.sum()), dtype=torch.float64, device=kept.device)

    def update(self, vectors: torch.Tensor) -> None:
        """Take in vectors (count, n)."""
        x = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        self._count += len(x)
        self._sum += x.sum(dim=0, dtype=torch.float64)
        self._products += (x.T @ x[:, self._kept]).double()

    def mean(self) -> torch.Tensor:
        """(n,)"""
        return self._sum / self._count

    def second(self) -> torch.Tensor:
        """(n, kept): E[x x_kept^T]."""
        return self._products / self._count

    def covariance(self) -> torch.Tensor:
        """(n, kept): E[(x - E x) (x_kept - E x_kept)^T]."""
        mean = self.mean()
        return self.second() - torch.outer(mean, mean[self._kept])
