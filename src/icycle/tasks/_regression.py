"""Regression: numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch.nn.functional import mse_loss

from icycle.tasks._metrics import Measured, import_torchmetrics, metrics_over
from icycle.tasks._registry import register
from icycle.training import Batch, by_parts, logits_of, require_fitting

__all__ = ["Regression"]


@register
class Regression(Measured):
    """Numbers. Outputs and targets: `(batch, numbers)`, or `(batch,)` for one.

    Decides: the mean squared error; lower is better. Also measured: the mean absolute error.
    """

    name: Literal["regression"] = "regression"
    metric: ClassVar[str] = "mean squared error"
    higher_is_better: ClassVar[bool] = False

    def loss_of(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return mse_loss(*_aligned(outputs, targets))

    def imitation_loss(self, outputs: Any, taught: Any, targets: torch.Tensor, temperature: float) -> torch.Tensor:
        """The mean squared distance; numbers have no temperature."""
        return mse_loss(*_aligned(outputs, logits_of(taught)))

    @by_parts
    def metrics(self, model: torch.nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        torchmetrics = import_torchmetrics()

        def make(_: torch.Tensor) -> dict[str, Any]:
            return {
                self.metric: torchmetrics.MeanSquaredError(),
                "mean absolute error": torchmetrics.MeanAbsoluteError(),
            }

        return metrics_over(make, model, loader, _aligned)


def _aligned(outputs: Any, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both `(batch, numbers)`, float32."""
    numbers = logits_of(outputs).float()
    require_fitting(numbers.numel() == targets.numel(), "as many outputs as targets for regression", numbers, targets)
    return numbers.reshape(len(numbers), -1), targets.float().reshape(len(targets), -1)
