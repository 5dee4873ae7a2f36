"""The final fine-tune: how far it is, and when it stops early."""

from __future__ import annotations

import copy
from typing import Any

import torch

__all__ = ["FinalFineTune"]

_BEST = "best."


class FinalFineTune:
    """How far the final fine-tune is. With patience it stops early, and the best state is remembered, that before it
    included."""

    def __init__(self, patience: int | None, model: torch.nn.Module, accuracy: float) -> None:
        self._patience = patience
        self._model = model
        self._accuracy = accuracy
        self._state: dict[str, Any] = {} if patience is None else copy.deepcopy(model.state_dict())
        self._waited = 0
        self.epochs = 0  # done

    @property
    def over(self) -> bool:
        """Have `patience` epochs in a row brought nothing?"""
        return self._patience is not None and self._waited >= self._patience

    def epoch_done(self, accuracy: float) -> None:
        """Count an epoch, after which the model has this accuracy."""
        self.epochs += 1
        if self._patience is None:
            return
        if accuracy > self._accuracy:
            self._accuracy, self._waited = accuracy, 0
            self._state = copy.deepcopy(self._model.state_dict())
        else:
            self._waited += 1

    def restored(self, accuracy: float) -> float:
        """The accuracy of the model, which is put back to its best state where it has become worse since."""
        if self._patience is None or accuracy >= self._accuracy:
            return accuracy
        self._model.load_state_dict(self._state)
        return self._accuracy

    def state_dict(self) -> dict[str, Any]:
        best = {_BEST + name: value for name, value in self._state.items()}
        return {"final": {"epochs": self.epochs, "waited": self._waited, "accuracy": self._accuracy}, **best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        final = state["final"]
        self.epochs, self._waited, self._accuracy = final["epochs"], final["waited"], final["accuracy"]
        self._state = {key[len(_BEST) :]: value for key, value in state.items() if key.startswith(_BEST)}
