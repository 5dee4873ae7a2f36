"""Several labels at once: of an example, or of each of its tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from icycle.tasks._metrics import Measured, import_torchmetrics, metrics_over
from icycle.tasks._registry import register
from icycle.training import Batch, by_parts, divergence, logits_of, require_fitting

__all__ = ["MultiLabel", "TokenClassification"]


@register
class MultiLabel(Measured):
    """Any number of labels per example. Outputs: logits `(batch, labels)`; targets: 0 or 1 `(batch, labels)`.

    Decides: the mean average precision over the labels, in percent. Also measured: the share of the labels that are
    right at a threshold of one half.
    """

    name: Literal["multi-label"] = "multi-label"
    metric: ClassVar[str] = "average precision"

    def loss_of(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        logits = logits_of(outputs)
        fits = logits.shape == targets.shape
        require_fitting(fits, "logits and targets (batch, labels) for multi-label", logits, targets)
        return binary_cross_entropy_with_logits(logits, targets.float())

    def imitation_loss(self, outputs: Any, taught: Any, targets: Any, temperature: float) -> torch.Tensor:
        own, wanted = (_as_classes(logits_of(values)) for values in (outputs, taught))
        return divergence(own, wanted, temperature, dim=-1)

    @by_parts
    def metrics(self, model: torch.nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        classification = import_torchmetrics().classification

        def make(logits: torch.Tensor) -> dict[str, Any]:
            labels = logits.shape[1]
            return {
                self.metric: classification.MultilabelAveragePrecision(num_labels=labels),
                "accuracy of the labels": classification.MultilabelAccuracy(num_labels=labels, average="micro"),
            }

        found = metrics_over(make, model, loader, lambda outputs, targets: (logits_of(outputs).float(), targets.long()))
        return {name: 100 * value for name, value in found.items()}


@register
class TokenClassification(Measured):
    """One class per token. Outputs: logits `(batch, tokens, classes)`; targets: int64 `(batch, tokens)`.

    Tokens whose target is `ignore_index` (special tokens, padding) count nowhere. Decides: the share of the tokens
    that are right, in percent; the tokens of a sentence are not independent, so no example is judged right or wrong.
    """

    name: Literal["token-classification"] = "token-classification"
    metric: ClassVar[str] = "token accuracy"
    ignore_index: int = -100

    def loss_of(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        logits = logits_of(outputs)
        fits = logits.dim() == 3 and logits.shape[:2] == targets.shape
        wanted = "logits (batch, tokens, classes) and integers (batch, tokens) for token-classification"
        require_fitting(fits, wanted, logits, targets)
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=self.ignore_index)

    def imitation_loss(self, outputs: Any, taught: Any, targets: torch.Tensor, temperature: float) -> torch.Tensor:
        counted = targets != self.ignore_index
        return divergence(logits_of(outputs), logits_of(taught), temperature, dim=-1, counted=counted)

    @by_parts
    def metrics(self, model: torch.nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        classification = import_torchmetrics().classification

        def make(logits: torch.Tensor) -> dict[str, Any]:
            options = {"num_classes": logits.shape[1], "ignore_index": self.ignore_index}
            return {
                self.metric: classification.MulticlassAccuracy(average="micro", **options),
                "F1": classification.MulticlassF1Score(average="macro", **options),
            }

        def read(outputs: Any, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return logits_of(outputs).flatten(0, 1), targets.flatten()

        return {name: 100 * value for name, value in metrics_over(make, model, loader, read).items()}


def _as_classes(logits: torch.Tensor) -> torch.Tensor:
    """Each label's yes and no as two classes: the softmax of (x, 0) is the sigmoid of x."""
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)
