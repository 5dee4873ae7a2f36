"""Language modelling: the next token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch.nn.functional import cross_entropy

from icycle.tasks._metrics import Measured, import_torchmetrics, metrics_over
from icycle.tasks._registry import register
from icycle.training import Batch, by_parts, divergence, logits_of, require_fitting

__all__ = ["LanguageModelling"]


@register
class LanguageModelling(Measured):
    """The next token of each. Outputs: logits `(batch, tokens, vocabulary)`; targets: int64 `(batch, tokens)`.

    The targets are the tokens themselves, as Hugging Face's models take them: position t is judged by token t + 1.
    Tokens whose target is `ignore_index` (padding) count nowhere. Decides: the perplexity; lower is better.
    """

    name: Literal["language-modelling"] = "language-modelling"
    metric: ClassVar[str] = "perplexity"
    higher_is_better: ClassVar[bool] = False
    ignore_index: int = -100

    def loss_of(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        logits = logits_of(outputs)
        fits = logits.dim() == 3 and logits.shape[:2] == targets.shape
        wanted = "logits (batch, tokens, vocabulary) and integers (batch, tokens) for language-modelling"
        require_fitting(fits, wanted, logits, targets)
        following = targets[:, 1:].flatten()
        return cross_entropy(logits[:, :-1].flatten(0, 1), following, ignore_index=self.ignore_index)

    def imitation_loss(self, outputs: Any, taught: Any, targets: torch.Tensor, temperature: float) -> torch.Tensor:
        own, wanted = (logits_of(values)[:, :-1] for values in (outputs, taught))
        return divergence(own, wanted, temperature, dim=-1, counted=targets[:, 1:] != self.ignore_index)

    @by_parts
    def metrics(self, model: torch.nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        text = import_torchmetrics().text

        def make(_: torch.Tensor) -> dict[str, Any]:
            return {self.metric: text.Perplexity(ignore_index=self.ignore_index)}

        def read(outputs: Any, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return logits_of(outputs)[:, :-1].float(), targets[:, 1:]

        return metrics_over(make, model, loader, read)
