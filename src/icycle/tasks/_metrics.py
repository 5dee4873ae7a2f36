"""Metrics of torchmetrics over the batches of a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import torch

from icycle.errors import TrainingError
from icycle.training import Batch, Supervised, is_part, run_model, split_batch

__all__ = ["Measured", "import_torchmetrics", "metrics_over"]


class Measured(Supervised):
    """A task that is measured by torchmetrics."""

    def prepare(self) -> None:
        import_torchmetrics()


def metrics_over(
    make: Callable[[Any], Mapping[str, Any]],
    model: torch.nn.Module,
    loader: Iterable[Batch],
    read: Callable[[Any, Any], tuple[torch.Tensor, torch.Tensor]],
) -> dict[str, float]:
    """Each metric's value over all batches, of all processes where each is given a part of them.

    Args:
        make: the first batch's (predictions) -> metrics by name, made once.
        read: (outputs, targets) -> predictions and targets as the metrics want them.
    """
    metrics: Mapping[str, Any] = {}
    for batch in loader:
        inputs, targets = split_batch(batch)
        predictions, targets = read(run_model(model, inputs), targets)
        metrics = metrics or {name: metric.to(predictions.device) for name, metric in make(predictions).items()}
        for metric in metrics.values():
            metric.update(predictions, targets)
    for metric in metrics.values():
        metric.sync_on_compute = is_part(loader)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def import_torchmetrics() -> ModuleType:
    """torchmetrics, or an error that says how to get it."""
    try:
        import torchmetrics
    except ImportError as error:
        raise TrainingError(
            "Expected torchmetrics to be installed, which this task measures by; run: pip install 'icycle[tasks]'"
        ) from error
    return torchmetrics
