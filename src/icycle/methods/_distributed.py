"""Under data parallelism every rank must remove the same channels: rank 0 decides (`from_first`), and all check."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import distributed

from icycle.errors import TrainingError
from icycle.structure import SubNetwork
from icycle.training import process_count

__all__ = ["flatten", "require_same_everywhere", "unflatten"]


def flatten(subnet: SubNetwork) -> torch.Tensor:
    """(channels,) bool: the keep masks of all groups, one after the other."""
    return torch.cat(list(subnet.keep.values()))


def unflatten(keep: torch.Tensor, sizes: Mapping[str, int]) -> SubNetwork:
    """The sub-network of groups of these sizes that `flatten` gives `keep` for."""
    return SubNetwork(dict(zip(sizes, keep.bool().split(list(sizes.values())), strict=True)))


def require_same_everywhere(what: str, text: str, device: torch.device) -> None:
    """Compare a hash of `text` over all ranks.

    Raises:
        TrainingError: they differ; on every rank.
    """
    if process_count() == 1:
        return
    own = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
    hashes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(hashes, torch.tensor([own], device=device))
    if any(int(value) != own for value in hashes):
        raise TrainingError(
            f"Expected {what} to be the same on all {len(hashes)} ranks, but they differ; build the model with the "
            "same settings and seed on every rank, and call start_epoch and after_step equally often."
        )
