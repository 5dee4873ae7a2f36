"""Every module's mode, put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["modes_kept"]


@contextmanager
def modes_kept(model: torch.nn.Module) -> Iterator[None]:
    """Put every module's training mode back on leaving, whatever happens inside."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
