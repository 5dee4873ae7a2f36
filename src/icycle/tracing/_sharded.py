"""Tensors of which each process holds a part (`DTensor`s), as FSDP2 makes them."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["is_sharded", "sharded_like", "whole"]


def is_sharded(tensor: torch.Tensor) -> bool:
    """Does each process hold a part of it?"""
    return hasattr(tensor, "full_tensor")  # asked so, as importing the class takes long


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a sharded tensor, for which all processes must ask; any other as it is."""
    full: torch.Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full


def sharded_like(tensor: Any, values: torch.Tensor) -> torch.Tensor:
    """Whole values, the same in all processes, sharded as `tensor` is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, tensor.device_mesh, tensor.placements)
