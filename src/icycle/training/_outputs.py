"""The class scores within whatever a model returns, and whether they fit the targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from icycle.errors import DataError, TrainingError
from icycle.tracing import shapes_in_words

__all__ = ["logits_of", "require_fitting"]


def logits_of(output: Any) -> torch.Tensor:
    """The logits `(batch, classes)` in a model's output.

    A tensor is taken as it is, a tuple or list by its first element, a mapping or an object by `logits` or `out`, else
    a mapping by its first value.

    Raises:
        TrainingError: no tensor is found there.
    """
    found = output
    while not isinstance(found, torch.Tensor):
        found = _inner(found)
        if found is None:
            raise TrainingError(
                "Expected the model to return logits as a tensor, a tuple, a mapping or an object with `.logits`, "
                f"but got {type(output).__name__}; wrap the model so that it returns its class scores"
            )
    return found


def _inner(output: Any) -> Any:
    for name in ("logits", "out"):
        if isinstance(output, Mapping) and name in output:
            return output[name]
        if not isinstance(output, Mapping) and hasattr(output, name):
            return getattr(output, name)
    if isinstance(output, Mapping):
        return next(iter(output.values()), None)
    if isinstance(output, tuple | list) and output:
        return output[0]
    return None


def require_fitting(fits: bool, wanted: str, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Raises DataError unless outputs and targets fit each other as `wanted` by a task."""
    if not fits:
        raise DataError(
            f"Expected {wanted}, but got {shapes_in_words(outputs)} and {shapes_in_words(targets)}; change task.name, "
            "the network or the data"
        )
