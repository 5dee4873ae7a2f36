"""Running a model on a few batches without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from icycle.probing._batches import inputs_for
from icycle.tracing import call_with

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
    """The model's outputs on a batch, and the batch's targets; which they are, `inputs_for` says."""
    inputs, targets = inputs_for(model, batch)
    return call_with(model, inputs), targets
