"""Accuracy of a model on a loader."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import torch

from icycle.errors import DataError
from icycle.training._batches import Loader, to_device
from icycle.training._outputs import logits_of

__all__ = ["evaluate", "evaluate_batches", "modes_kept"]


@torch.no_grad()
def evaluate(model: torch.nn.Module, loader: Loader) -> float:
    """Top-1 accuracy in percent, 0..100, in evaluation mode; every module's mode is put back.

    Raises:
        DataError: the loader is empty.
    """
    correct: torch.Tensor | int = 0
    seen = 0
    for right in evaluate_batches(model, loader):
        # Summed on the device: reading it once at the end keeps an accelerator's queue full.
        correct = correct + right.sum()
        seen += len(right)
    if seen == 0:
        raise DataError("Expected at least one example to evaluate on, but the loader gave none; use a larger split")
    return 100.0 * float(correct) / seen


@torch.no_grad()
def evaluate_batches(model: torch.nn.Module, loader: Loader) -> Generator[torch.Tensor, None, None]:
    """For each batch which of its examples are classified right, bool `(batch,)`, in evaluation mode.

    The modules' modes are put back when the last batch is done, or the generator is closed.
    """
    with modes_kept(model):
        model.eval()
        for batch in loader:
            inputs, labels = to_device(batch, model)
            yield logits_of(model(inputs)).argmax(dim=1) == labels


@contextmanager
def modes_kept(model: torch.nn.Module) -> Iterator[None]:
    """Put every module's training mode back on leaving, whatever happens inside."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
