"""Early stopping: training ends once the validation split gains nothing any more, and the best epoch's weights stay."""

from __future__ import annotations

from typing import Any

import torch

from icycle.training._task import Task

__all__ = ["EarlyStopping"]

_BEST = "best."


class EarlyStopping:
    """Watches the metric that decides; part of a run's checkpoints.

    Args:
        patience: epochs in a row that may bring nothing; None: it never stops, and remembers nothing.
        task: says which value of the metric is better.
    """

    def __init__(self, patience: int | None, task: Task) -> None:
        self._patience = patience
        self._task = task
        self._waited = 0
        self._value: float | None = None
        self._best: dict[str, torch.Tensor] = {}

    @property
    def over(self) -> bool:
        """Is it time to stop?"""
        return self._patience is not None and self._waited >= self._patience

    def see(self, value: float, model: torch.nn.Module) -> None:
        """Call after each epoch that may be the last, with the metric of `model`."""
        if self._patience is None:
            return
        if self._value is None or self._task.points(value) > self._task.points(self._value):
            self._value, self._waited = value, 0
            self._best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        else:
            self._waited += 1

    def restore(self, value: float, model: torch.nn.Module) -> float:
        """Give `model`, whose metric is `value`, the weights of the best epoch; the metric that it has then."""
        if self._value is None or not self._waited:
            return value
        model.load_state_dict(self._best)
        return self._value

    def state_dict(self) -> dict[str, Any]:
        best = {_BEST + name: tensor for name, tensor in self._best.items()}
        return {"waited": self._waited, "value": self._value, **best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._waited, self._value = state["waited"], state["value"]
        self._best = {key[len(_BEST) :]: tensor for key, tensor in state.items() if key.startswith(_BEST)}
