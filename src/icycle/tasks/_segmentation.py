"""Semantic segmentation: a class per pixel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch.nn.functional import cross_entropy, interpolate

from icycle.tasks._metrics import Measured, import_torchmetrics, metrics_over
from icycle.tasks._registry import register
from icycle.training import Batch, by_parts, divergence, logits_of, require_fitting

__all__ = ["Segmentation"]


@register
class Segmentation(Measured):
    """A class per pixel. Outputs: logits `(batch, classes, height, width)`; targets: int64 `(batch, height, width)`.

    Outputs of a lower resolution are scaled up. Pixels whose target is `ignore_index` count nowhere. Decides: the mean
    intersection over union of the classes, in percent. Also measured: the share of the pixels that are right.
    """

    name: Literal["segmentation"] = "segmentation"
    metric: ClassVar[str] = "mean IoU"
    ignore_index: int = 255

    def loss_of(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(*_aligned(outputs, targets), ignore_index=self.ignore_index)

    def imitation_loss(self, outputs: Any, taught: Any, targets: torch.Tensor, temperature: float) -> torch.Tensor:
        (own, labels), (wanted, _) = _aligned(outputs, targets), _aligned(taught, targets)
        return divergence(own, wanted, temperature, counted=labels != self.ignore_index)

    @by_parts
    def metrics(self, model: torch.nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        classification = import_torchmetrics().classification

        def make(logits: torch.Tensor) -> dict[str, Any]:
            options = {"num_classes": logits.shape[1], "ignore_index": self.ignore_index}
            return {
                self.metric: classification.MulticlassJaccardIndex(average="macro", **options),
                "pixel accuracy": classification.MulticlassAccuracy(average="micro", **options),
            }

        return {name: 100 * value for name, value in metrics_over(make, model, loader, _aligned).items()}


def _aligned(outputs: Any, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the targets' resolution, and the targets."""
    logits, targets = logits_of(outputs), targets.long()
    fits = logits.dim() == 4 and targets.dim() in (3, 4)
    wanted = "logits (batch, classes, height, width) and integers (batch, height, width) for segmentation"
    require_fitting(fits, wanted, logits, targets)
    if targets.dim() == 4:
        targets = targets.squeeze(1)
    if logits.shape[2:] != targets.shape[1:]:
        logits = interpolate(logits, size=targets.shape[1:], mode="bilinear", align_corners=False)
    return logits, targets
