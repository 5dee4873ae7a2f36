"""The random states that a run draws from, as tensors."""

from __future__ import annotations

import torch

__all__ = ["RandomState", "random_state", "restore_random"]

RandomState = dict[str, torch.Tensor]


def random_state() -> RandomState:
    """Torch's on the CPU, and on the accelerator where there is one."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random(states: RandomState) -> None:
    """Draw on from these states."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
