"""Where batches come from, and how they reach the model's device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

__all__ = ["Batch", "Loader", "to_device"]

Batch = tuple[torch.Tensor, torch.Tensor]


class Loader(Protocol):
    """Batches of (inputs, labels); a torch `DataLoader` is one. `set_epoch(epoch)` is called where it exists."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


def to_device(batch: Batch, model: torch.nn.Module) -> Batch:
    """The batch on the model's device; images take the memory format of the model's convolutions."""
    inputs, labels = batch
    weight = next(model.parameters(), None)
    if weight is None:
        return inputs, labels
    return inputs.to(weight.device, non_blocking=True), labels.to(weight.device, non_blocking=True)
