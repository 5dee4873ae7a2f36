"""Will the model run on the batches that are read at a removal? Asked before any training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from icycle.errors import DataError
from icycle.probing import forward, in_eval_mode
from icycle.tracing import undisturbed

__all__ = ["require_first_batch", "require_many_readings"]


def require_first_batch(name: str, model: torch.nn.Module, batches: Iterable[Any]) -> None:
    """Run the model on the first of `batches`, given as `name`, unless they can be read only once; nothing is changed.

    Raises:
        DataError: there is none, or the model does not run on it.
    """
    if isinstance(batches, Iterator):
        return
    try:
        with undisturbed(model), in_eval_mode(model), torch.no_grad():
            for batch in batches:
                forward(model, batch)
                return
    except Exception as error:
        raise DataError(
            f"Expected {name} as batches that {type(model).__name__} runs on, but the first of this "
            f"{type(batches).__name__} raised {type(error).__name__}: {error}; pass tensors, (inputs..., targets) or "
            "mappings of keyword arguments."
        ) from error
    raise DataError(f"Expected at least one batch as {name}, but this {type(batches).__name__} gave none.")


def require_many_readings(name: str, batches: Iterable[Any]) -> None:
    """Raises DataError for batches, given as `name`, that can be read only once."""
    if isinstance(batches, Iterator):
        raise DataError(
            f"Expected {name} to give the same batches each time, as it is read more than once, but got a "
            f"{type(batches).__name__}; pass a loader, or a list of batches."
        )
