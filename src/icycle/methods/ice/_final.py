"""The final fine-tune: how far it is, and when it may stop early."""

from __future__ import annotations

import copy
from typing import Any

import torch

__all__ = ["FinalFineTune"]

_BEST = "best."


class FinalFineTune:
    """How far the final fine-tune is, and whether it may stop.

    Args:
        epochs: at most.
        patience: it stops after so many epochs without a better accuracy, and the best state is remembered, that before
            it included; None: it does not.
        enough: it stops where the accuracy (percent) has reached this: before it begins, after a quarter, and after
            half of the epochs. Each of these parts is a course of its own, at the end of which the rate is zero. None:
            all is one course.
        model, accuracy: the network that is fine-tuned, and its accuracy before.
    """

    def __init__(
        self, epochs: int, patience: int | None, enough: float | None, model: torch.nn.Module, accuracy: float
    ) -> None:
        self._patience = patience
        self._enough = enough
        self._model = model
        self._best = accuracy
        self._state: dict[str, Any] = {} if patience is None else copy.deepcopy(model.state_dict())
        self._waited = 0
        parts = (0, epochs // 4, epochs // 2, epochs) if enough is not None else (0, epochs)
        self._ends = sorted(set(parts))
        self._now = accuracy
        self.epochs = 0  # done

    @property
    def over(self) -> str | None:
        """Why it is over, in words; None: it is not."""
        if self._enough is not None and self.epochs in self._ends and self._now >= self._enough:
            return "within the allowed drop"
        if self._patience is not None and self._waited >= self._patience:
            return f"nothing gained in {self._patience} epochs"
        return "all epochs taken" if self.epochs >= self._ends[-1] else None

    @property
    def part(self) -> tuple[int, int]:
        """The epochs between which the course runs that the next epoch belongs to."""
        end = next(end for end in self._ends if end > self.epochs)
        return self._ends[self._ends.index(end) - 1], end

    @property
    def judges(self) -> bool:
        """Does the next epoch have to be followed by an evaluation?"""
        return self._patience is not None or self.epochs + 1 in self._ends

    def epoch_done(self, accuracy: float) -> None:
        """Count an epoch, after which the model has this accuracy."""
        self.epochs += 1
        self._now = accuracy
        if self._patience is None:
            return
        if accuracy > self._best:
            self._best, self._waited = accuracy, 0
            self._state = copy.deepcopy(self._model.state_dict())
        else:
            self._waited += 1

    def restored(self, accuracy: float) -> float:
        """The accuracy of the model, which is put back to its best state where it has become worse since."""
        if self._patience is None or accuracy >= self._best:
            return accuracy
        self._model.load_state_dict(self._state)
        return self._best

    def state_dict(self) -> dict[str, Any]:
        done = {"epochs": self.epochs, "waited": self._waited, "best": self._best, "now": self._now}
        return {"final": done, **{_BEST + name: value for name, value in self._state.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        done = state["final"]
        self.epochs, self._waited, self._best, self._now = (done[name] for name in ("epochs", "waited", "best", "now"))
        self._state = {key[len(_BEST) :]: value for key, value in state.items() if key.startswith(_BEST)}
