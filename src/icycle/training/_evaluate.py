"""Accuracy of a classifier on a loader."""

from __future__ import annotations

from collections.abc import Generator, Iterable

import torch

from icycle.training._batches import Batch, Loader
from icycle.training._task import Classification, correct_batches, measure

__all__ = ["evaluate", "evaluate_batches"]


def evaluate(model: torch.nn.Module, loader: Loader) -> float:
    """Top-1 accuracy in percent, 0..100, in evaluation mode; every module's mode is put back.

    Raises:
        DataError: the loader is empty.
    """
    return measure(model, loader, Classification())["accuracy"]


def evaluate_batches(model: torch.nn.Module, loader: Iterable[Batch]) -> Generator[torch.Tensor, None, None]:
    """For each batch which of its examples are classified right, bool `(batch,)`, in evaluation mode.

    The modules' modes are put back when the last batch is done, or the generator is closed.
    """
    return correct_batches(model, loader, Classification())
