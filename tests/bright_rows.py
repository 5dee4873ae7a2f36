"""A task that small networks learn in milliseconds: which of three rows of an image is bright."""

from __future__ import annotations

import torch

__all__ = ["bright_rows"]


def bright_rows(count: int, size: int = 16, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`count` batches of `size` images, (size, 1, 8, 8), and their classes, 0 to 2."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count, size), generator=generator)
    inputs = torch.randn(count, size, 1, 8, 8, generator=generator)
    inputs[..., 0, 0, :] += 3.0 * (labels == 0)[..., None]
    inputs[..., 0, 3, :] += 3.0 * (labels == 1)[..., None]
    return list(zip(inputs, labels, strict=True))
