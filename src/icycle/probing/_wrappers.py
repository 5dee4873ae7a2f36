"""What a model is wrapped in: averages, data parallelism, compilation."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["inside", "unwrapped"]

_WRAPPERS = (AveragedModel, nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside all wrappers."""
    inner = inside(model)
    return model if inner is None else unwrapped(inner)


def inside(model: nn.Module) -> nn.Module | None:
    """What the outermost wrapper holds; None where the model is none."""
    if isinstance(model, _WRAPPERS):
        return model.module
    inner = getattr(model, "_orig_mod", None)  # a compiled model's
    return inner if isinstance(inner, nn.Module) else None
