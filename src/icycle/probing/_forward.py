"""Running a model on a few batches without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["forward", "in_eval_mode"]


@contextmanager
def in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode within the block, so that no running statistic moves; every module's own mode after it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def forward(model: torch.nn.Module, batch: Any) -> tuple[Any, Any]:
    """The model's outputs on a batch, and the batch's targets, on the model's device.

    A mapping is passed as keywords and is its own targets; the last element of a tuple or list is the targets, the
    others are the inputs, where a single mapping stands for keywords; a bare tensor is the only input and its own
    targets.
    """
    parameter = next(model.parameters(), None)
    batch = batch if parameter is None else _to(batch, parameter.device)
    if isinstance(batch, Mapping):
        return model(**batch), batch
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Mapping):
        return model(**batch[0]), batch[1]
    if isinstance(batch, tuple | list) and len(batch) > 1:
        return model(*batch[:-1]), batch[-1]
    only = batch[0] if isinstance(batch, tuple | list) else batch
    return model(only), only


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _to(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to(item, device) for item in value]
    return value
