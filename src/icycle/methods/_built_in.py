"""The built-in loop as a method's `Training`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy

from icycle.methods._registry import Context
from icycle.methods._training import CorrectPerBatch, FineTune
from icycle.training import Loader, Trainer, logits_of

__all__ = ["BuiltInTraining"]


class _PrefixCache(Protocol):
    """What can stand in for the training loader while a prefix of the network is frozen."""

    def replayed(
        self, model: torch.nn.Module, frozen: Any, forward: Callable[[torch.Tensor], Any], epochs: float
    ) -> Loader | None: ...


class BuiltInTraining:
    """Trains `context.model` on the context's data by its own `Trainer`, and records every fine-tune.

    Args:
        trainer: the context's own unless given.
        cache: the stored outputs of a frozen prefix, where the method has one.
    """

    def __init__(self, context: Context, trainer: Trainer | None = None, cache: _PrefixCache | None = None) -> None:
        self._context = context
        self._data = context.data
        self._cache = cache
        self._validation = _shuffled(context)
        self.trainer = trainer or context.trainer()

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizer

    @property
    def batches(self) -> Iterable[Any]:
        return self._data.calibration

    @property
    def loss(self) -> Callable[..., torch.Tensor]:
        return lambda outputs, labels: cross_entropy(logits_of(outputs), labels)

    @property
    def correct_per_batch(self) -> CorrectPerBatch:
        return self._correct

    def _correct(self, model: torch.nn.Module) -> Generator[torch.Tensor, None, None]:
        yield from self._on(model).evaluate_batches(self._validation)

    def train_for(self, model: torch.nn.Module, request: FineTune) -> None:
        trainer, replayed = self._on(model), None
        if self._cache is not None:
            replayed = self._cache.replayed(model, request.frozen, self._forward, request.epochs_left)
        loss = trainer.train_for(replayed or self._data.train, request.epochs, request.rate)
        self._context.recorder.write(
            "fine-tune",
            reason=request.kind,
            step=request.step,
            epochs=request.epochs,
            learning_rate=request.learning_rate,
            loss=loss,
            replayed=replayed is not None,
        )

    def evaluate(self, model: torch.nn.Module) -> float:
        return float(self._on(model).evaluate(self._data.validation))

    def recalibrate(self, model: torch.nn.Module, batches: int) -> None:
        self._on(model).recalibrate(self._data.calibration, batches=batches)

    def precision(self) -> AbstractContextManager[None]:
        return self.trainer.autocast()

    def _forward(self, inputs: torch.Tensor) -> Any:
        with self.precision():
            return self.trainer.model.train()(self.trainer.formatted(inputs))

    def _on(self, model: torch.nn.Module) -> Trainer:
        assert model is self.trainer.model
        self.trainer.lay_out()  # a removal makes new weights
        return self.trainer


def _shuffled(context: Context) -> Loader:
    """The validation split in an order that has nothing to do with its labels, in batches that let a test end early."""
    loader = context.data.validation
    order = torch.randperm(len(loader.images), generator=torch.Generator().manual_seed(context.seed))
    return loader.over(loader.images.take(order), batch_size=context.data.train.batch_size)
