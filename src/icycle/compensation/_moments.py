"""Second moments of what a consumer read or put out before a removal, and of what it reads after it."""

from __future__ import annotations

import torch

__all__ = ["Moments"]


class Moments:
    """Of pairs of vectors, x (n,) and z (k,): their means, E[x z^T] and E[z z^T], in float64.

    Products are taken around shifts close to the means, so that little precision is lost where those are large.
    """

    def __init__(self, n: int, k: int, device: torch.device) -> None:
        self.count = 0
        self._shifts: tuple[torch.Tensor, torch.Tensor] | None = None  # of x and of z
        self._x, self._z = (torch.zeros(size, dtype=torch.float64, device=device) for size in (n, k))
        self._xz, self._zz = (torch.zeros(size, k, dtype=torch.float64, device=device) for size in (n, k))

    def update(self, x: torch.Tensor, z: torch.Tensor) -> None:
        """Take in pairs: x (count, n) and z (count, k)."""
        x, z = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (x, z))
        if self._shifts is None:
            self._shifts = x.mean(dim=0), z.mean(dim=0)
        x, z = (each - shift for each, shift in zip((x, z), self._shifts, strict=True))
        self.count += len(x)
        self._x += x.sum(dim=0, dtype=torch.float64)
        self._z += z.sum(dim=0, dtype=torch.float64)
        self._xz += (x.T @ z).double()
        self._zz += (z.T @ z).double()

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(n,) and (k,): E[x] and E[z]."""
        assert self._shifts is not None
        x, z = self._shifts
        return x + self._x / self.count, z + self._z / self.count

    def second(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, k) and (k, k): E[x z^T] and E[z z^T]."""
        (x, z), (xz, zz) = self.means(), self.covariance()
        return xz + torch.outer(x, z), zz + torch.outer(z, z)

    def covariance(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, k) and (k, k): the same of x and z less their means."""
        x, z = self._x / self.count, self._z / self.count
        return self._xz / self.count - torch.outer(x, z), self._zz / self.count - torch.outer(z, z)
