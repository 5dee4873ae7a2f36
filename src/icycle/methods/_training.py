"""What a method needs of whoever trains the network: one protocol, for a user's own code and for the built-in loop.

A method that starts from a trained network calls nothing else to train it or to judge it, and so knows neither where
batches come from nor what the task is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from icycle.errors import TrainingError
from icycle.methods._judged import CorrectPerBatch, Judged, judged
from icycle.training import Loader, evaluate_batches, recalibrate

if TYPE_CHECKING:
    from icycle.methods.ice._freeze import Frozen

__all__ = ["FineTune", "OwnTraining", "Training"]

Loss = Callable[..., torch.Tensor]
Calibration = Loader | Callable[[torch.nn.Module], object]


@dataclass(frozen=True)
class FineTune:
    """What the training code is asked to do: train the model on for `epochs`, at a rate that runs as stated.

    The rate falls linearly from `learning_rate` to `end` (equal: it is constant); `rate(progress)` says it for each
    step. Parameters that are frozen have requires_grad False. Requests of one kind may follow each other and then form
    one course; `epochs_left` is what is at most to come of it, this request included. Where `data_share` is below 1,
    only that share of the training data is to be used; `epochs` are passes over all of it, so the share is seen
    epochs / data_share times.
    """

    epochs: float
    learning_rate: float
    end: float
    kind: Literal["probe", "step", "final"]  # a probe trains a copy of the dense network, which is thrown away
    step: int  # how many steps' channels are gone
    epochs_left: float
    frozen: Frozen | None = None
    data_share: float = 1.0  # 0..1

    def rate(self, progress: float) -> float:
        """The learning rate once the share `progress` (0..1) of this request is done."""
        return self.learning_rate + (self.end - self.learning_rate) * progress


class Training(Protocol):
    """The training of one network. The model may have lost channels between any two calls."""

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """One that lives throughout the run, and loses the removed channels' state with the weights; None: there is
        none."""

    @property
    def batches(self) -> Iterable[Any] | None:
        """Training batches (inputs, targets), for criteria that read data; None: there are none."""

    @property
    def loss(self) -> Loss | None:
        """(outputs, targets) -> scalar, for criteria that read gradients; None: there is none."""

    @property
    def validation_examples(self) -> int:
        """How many examples `evaluate` reads; 0 where nobody can tell."""

    @property
    def correct_per_batch(self) -> CorrectPerBatch | None:
        """Which validation examples are right; None where the task has no right and wrong, or nobody can tell."""

    def train_for(self, model: torch.nn.Module, request: FineTune) -> None:
        """Train as the request says."""

    def evaluate(self, model: torch.nn.Module) -> float:
        """The metric that decides, on the validation split; higher is better (accuracy in percent, say)."""

    def recalibrate(self, model: torch.nn.Module, batches: int) -> None:
        """Estimate the batch-norm statistics anew on so many batches of training data."""

    def precision(self) -> AbstractContextManager[None]:
        """Within it the model computes as it does in training."""


@dataclass(frozen=True)
class OwnTraining:
    """A user's own code. See `icycle.ice` for the arguments."""

    fine_tune: Callable[[torch.nn.Module, FineTune], object]
    accuracy: Callable[[torch.nn.Module], float]  # percent
    validation: Loader | None = None
    calibration: Calibration | None = None
    batches: Iterable[Any] | None = None
    loss: Loss | None = None
    optimizer: torch.optim.Optimizer | None = None

    def train_for(self, model: torch.nn.Module, request: FineTune) -> None:
        self.fine_tune(model, request)

    def evaluate(self, model: torch.nn.Module) -> float:
        """The user's accuracy, whose value is looked at.

        Raises:
            TrainingError: it is no number, NaN, or not in 0..100.
        """
        value = self.accuracy(model)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TrainingError(
                f"Expected evaluate(model) to return a float, the accuracy in percent, but got {type(value).__name__}; "
                "return a plain number (of a tensor its .item())"
            )
        if not 0 <= float(value) <= 100:  # NaN too
            raise TrainingError(
                f"Expected evaluate(model) to return an accuracy in percent, 0..100, but got {float(value)}"
            )
        return float(value)

    @property
    def validation_examples(self) -> int:
        return 0

    @property
    def correct_per_batch(self) -> CorrectPerBatch | None:
        return None if self.validation is None else self._correct

    def _correct(self, model: torch.nn.Module) -> Generator[Judged, None, None]:
        assert self.validation is not None
        return judged(self.validation, lambda batches: evaluate_batches(model, batches))

    def recalibrate(self, model: torch.nn.Module, batches: int) -> None:
        if callable(self.calibration):
            self.calibration(model)
        elif self.calibration is not None:
            recalibrate(model, self.calibration, batches=batches)

    def precision(self) -> AbstractContextManager[None]:
        return nullcontext()
