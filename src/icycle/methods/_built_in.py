"""The built-in loop as a method's `Training`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from icycle.methods._judged import CorrectPerBatch, Judged, judged
from icycle.methods._registry import Context
from icycle.methods._training import FineTune
from icycle.training import Loader, Optimizer, Supervised, Trainer, run_model
from icycle.zoo import Batches

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
        fresh: an optimizer that is made anew for each fine-tune; without it the trainer's own lives throughout.
    """

    def __init__(
        self,
        context: Context,
        trainer: Trainer | None = None,
        cache: _PrefixCache | None = None,
        fresh: Optimizer | None = None,
    ) -> None:
        self._context = context
        self._data = context.data
        self._cache = cache
        self._fresh = fresh
        # an order that has nothing to do with the answers, in batches that let a test end early
        self._validation = context.data.validation.shuffled_once(context.data.train.batch_size, context.seed)
        self.trainer = trainer or context.trainer()
        # a teacher has to see the images; a compiled step does not see what is fed in
        self._replays = context.train.distill is None and context.train.compile is None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizer

    @property
    def batches(self) -> Iterable[Any]:
        return self._data.calibration

    @property
    def loss(self) -> Callable[..., torch.Tensor] | None:
        task = self.trainer.task
        return task.loss_of if isinstance(task, Supervised) else None

    @property
    def validation_examples(self) -> int:
        return self._data.validation.examples

    @property
    def correct_per_batch(self) -> CorrectPerBatch | None:
        return self._correct if self.trainer.task.judges else None

    def _correct(self, model: torch.nn.Module) -> Generator[Judged, None, None]:
        return judged(self._validation, self._on(model).correct_batches)

    def train_for(self, model: torch.nn.Module, request: FineTune) -> None:
        trainer, loader, replayed = self._trainer_of(model), self._share(request.data_share), None
        # a share has images of its own, and a teacher has to see them
        if self._cache is not None and loader is self._data.train and self._replays:
            replayed = self._cache.replayed(model, request.frozen, self._forward, request.epochs_left)
        began = time.perf_counter()
        # a probe is part of what comes before any course: its copy of the network has none to go on with
        checkpoint = None if request.kind == "probe" else self._context.checkpoint
        epochs = request.epochs / request.data_share
        loss = trainer.train_for(replayed or loader, epochs, request.rate, checkpoint=checkpoint)
        self.trainer.epoch = trainer.epoch
        self._context.recorder.write(
            "fine-tune",
            reason=request.kind,
            step=request.step,
            epochs=request.epochs,
            learning_rate=request.learning_rate,
            loss=loss,
            replayed=replayed is not None,
            seconds=time.perf_counter() - began,
        )

    def evaluate(self, model: torch.nn.Module) -> float:
        """The task's deciding metric in points (see `Task.points`): higher is better."""
        return self.trainer.task.points(self._on(model).evaluate(self._data.validation))

    def recalibrate(self, model: torch.nn.Module, batches: int) -> None:
        self._on(model).recalibrate(self._data.calibration, batches=batches)

    def precision(self) -> AbstractContextManager[None]:
        return self.trainer.autocast()

    def _forward(self, inputs: torch.Tensor) -> Any:
        with self.precision():
            return run_model(self.trainer.model.train(), self.trainer.on_device(inputs))

    def _trainer_of(self, model: torch.nn.Module) -> Trainer:
        """The trainer of a fine-tune: a new one for a copy of the network, and where its optimizer is to be fresh."""
        if self._fresh is None and model is self.trainer.model:
            return self._on(model)
        return self.trainer.anew(model, self._fresh)

    def _share(self, share: float) -> Batches:
        """Training batches of this share of the examples, the same ones each time."""
        return self._data.train if share == 1 else self._data.train.share(share, self._context.seed)

    def _on(self, model: torch.nn.Module) -> Trainer:
        assert model is self.trainer.model
        self.trainer.lay_out()  # a removal makes new weights
        return self.trainer
