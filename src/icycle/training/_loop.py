"""The training loop, on Accelerate."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import torch

from icycle.errors import DataError, TrainingError
from icycle.training._accelerator import make_accelerator
from icycle.training._average import Average
from icycle.training._batches import Batch, Loader, batch_size_of, to_device, windows
from icycle.training._called import Called
from icycle.training._clock import seconds_between
from icycle.training._decay import build_optimizer
from icycle.training._deterministic import deterministic
from icycle.training._distill import Teacher
from icycle.training._hooks import Hooks, NoHooks
from icycle.training._optimizers import Optimizer
from icycle.training._passes import Course, Rest, steps_in
from icycle.training._processes import part_of, require_divisible, share_buffers
from icycle.training._recalibrate import recalibrate
from icycle.training._recorder import Recorder
from icycle.training._saver import Partial, Saver, course_folder
from icycle.training._stopping import EarlyStopping
from icycle.training._task import Classification, Task, correct_batches, measure
from icycle.training._train_settings import TrainSettings

__all__ = ["Trainer"]

# On an accelerator, looking at a loss waits for all the work in its queue; on the CPU there is no queue.
_LOSS_CHECK_INTERVAL = 16


class Trainer:
    """Trains one model; the model and its optimizer may be pruned in place at any hook.

    Where several processes were launched they train together: each is given whole loaders, reads its part of every
    batch, and ends with the same weights and the same metrics.

    Args:
        model: is moved to the run's device.
        settings: how to train.
        batches_per_epoch: >= 1; the schedule spans `settings.epochs` of them.
        recorder: takes one record per epoch and keeps the clock.
        task: what it is trained for; classification by default.
        teacher: a trained network to learn from, where the settings ask for distillation; else `keep_teacher` is due.

    Raises:
        TrainingError: no step per epoch, no weights, a device that cannot do what the settings ask, or a batch that
            cannot be cut into equal parts for all processes.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        settings: TrainSettings,
        batches_per_epoch: int,
        recorder: Recorder | None = None,
        task: Task | None = None,
        teacher: torch.nn.Module | None = None,
    ) -> None:
        if batches_per_epoch < 1:
            raise TrainingError(
                f"Expected at least one batch per epoch, but got {batches_per_epoch}: fewer training examples than "
                f"batch_size={settings.batch_size}; lower train.batch_size or raise data.subset"
            )
        if not any(True for _ in model.parameters()):
            raise TrainingError(f"Expected a network with weights to train, but {type(model).__name__} has none")
        self.settings = settings
        self.recorder = recorder or Recorder()
        self.task = task or Classification()
        self.steps_per_epoch = math.ceil(batches_per_epoch / settings.accumulate)  # of the optimizer
        self.epoch = 0  # completed epochs
        self.step = 0  # completed steps
        self._course: Course | None = None
        self._accelerator = make_accelerator(settings.precision)
        require_divisible(settings.batch_size)
        self.model = model.to(self._accelerator.device)
        self._called = Called(self.model, settings.compile)
        self._prepared = self._accelerator.prepare_optimizer(
            build_optimizer(settings.optimizer, model, settings.weight_decay)
        )
        self._average = None if settings.ema is None else Average(model, settings.ema)
        self.lay_out()
        self._teacher = self._make_teacher(teacher)
        self._stopping = EarlyStopping(settings.early_stopping, self.task)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The torch optimizer itself, which survives pruning."""
        return self._prepared.optimizer

    @property
    def parts(self) -> dict[str, object]:
        """What belongs into a checkpoint beside model, optimizer and the method."""
        return {"teacher": self._teacher, "average": self._average, "stopping": self._stopping}

    @property
    def averaged(self) -> tuple[torch.nn.Module, ...]:
        """Copies of the model that have to lose the same channels."""
        return () if self._average is None else (self._average.wrapper,)

    @property
    def judged(self) -> torch.nn.Module:
        """The network that is evaluated, and kept in the end: the average, once there is one."""
        return self.model if self._average is None or not self._average.begun else self._average.network

    @property
    def steps(self) -> int:
        """Steps in the whole run."""
        return self.settings.epochs * self.steps_per_epoch

    @property
    def learning_rate(self) -> float:
        """The learning rate of the coming step: the schedule at the middle of that step."""
        return self._rate_at(self.step)

    def _rate_at(self, step: int) -> float:
        if self._course is not None:
            return self._course.at(step)
        progress = min((step + 0.5) / self.steps, 1.0)
        return self.settings.optimizer.learning_rate * self.settings.schedule.factor(progress)

    def fit(
        self, train: Loader, validation: Loader, *, hooks: Hooks | None = None, checkpoint: Path | None = None
    ) -> float:
        """Train to the last epoch; return the value of the task's deciding metric on the validation split.

        It is that of the last epoch, or of the best one with `settings.early_stopping`; the model has its weights then,
        or their average.

        Args:
            train: `len(train)` is `steps_per_epoch`.
            validation: is recorded after every epoch, and decides about early stopping alone.
            hooks: called before each epoch and after each step; those that are `Stateful` are part of checkpoints.
            checkpoint: a folder that is written after every good epoch, every `settings.checkpoint_minutes`, and when
                the process is asked to stop. Where it holds a checkpoint already, training goes on from it.

        Raises:
            TrainingError: the loss or the weights are no longer finite; the checkpoint holds the last good state.
            RunInterruptedError: SIGTERM or SIGUSR1 came within `stoppable`; the checkpoint holds all.
        """
        hooks = hooks or NoHooks()
        saver = Saver(self, checkpoint, hooks)
        partial, epoch_start, accuracy = saver.restore()
        for epoch in range(self.epoch, self.settings.epochs):
            if self._stopping.over:
                break
            batches = Rest(part_of(train, even=True), partial.batches, epoch_start)
            saver.epoch_starts(epoch_start)
            with self._explained(checkpoint), deterministic(self.settings.deterministic):
                accuracy = self._run_epoch(epoch, batches, validation, hooks, saver, partial)
            if getattr(hooks, "settled", True):
                self._stopping.see(accuracy, self.judged)
            saver.epoch_done(accuracy)
            partial, epoch_start = Partial(), {}
        self._hand_over_average()
        return self._stopping.restore(self.evaluate(validation) if accuracy is None else accuracy, self.model)

    def train_for(
        self, train: Loader, epochs: float, rate: Callable[[float], float], *, checkpoint: Path | None = None
    ) -> float:
        """Train on, with the same optimizer, for `epochs` (> 0, fractions too); the mean loss of the last of them.

        Where weights are averaged, the average begins anew, and the model has it in the end.

        Args:
            rate: the learning rate as a function of the progress, 0..1. Nothing is evaluated or recorded.
            checkpoint: a folder of the run's checkpoints; this course has its own within it, written as those of `fit`
                are. Where it was cut off before, it goes on: for a trainer that is where it was at the beginning.

        Raises:
            TrainingError: the loss or the weights are no longer finite.
            RunInterruptedError: SIGTERM or SIGUSR1 came within `stoppable`; the checkpoint holds all.
        """
        train = part_of(train, even=True)
        batches = max(1, round(epochs * len(train)))
        self._course = Course(self.step, steps_in(batches, len(train), self.settings.accumulate), rate)
        first, loss = self.epoch, math.nan
        saver = Saver(self, course_folder(checkpoint, self.step, batches), course=True)
        partial, epoch_start, _ = saver.restore()
        try:
            for done in range((self.epoch - first) * len(train), batches, len(train)):
                rest = Rest(train, partial.batches, epoch_start)
                rest.set_epoch(self.epoch)
                saver.epoch_starts(epoch_start)
                left = min(len(train), batches - done) - partial.batches
                with self._explained(None), deterministic(self.settings.deterministic):
                    loss = self._train_epoch(islice(rest, left), NoHooks(), partial, saver.step_done)
                self.epoch += 1
                partial, epoch_start = Partial(), {}
        finally:
            self._course = None
        self._hand_over_average()
        return loss

    def _hand_over_average(self) -> None:
        if self._average is not None:
            self._average.hand_over()

    def correct_batches(self, loader: Iterable[Batch]) -> Generator[torch.Tensor, None, None]:
        """For each batch which of its examples are judged right, bool `(batch,)`, in the run's precision."""
        self.share_buffers()
        with self.autocast():
            yield from correct_batches(self.model, loader, self.task, divided=True)

    def autocast(self) -> AbstractContextManager[None]:
        """Computes in the run's precision."""
        return self._accelerator.autocast()

    def on_device(self, batch: Batch) -> Batch:
        """A batch, or its inputs, on the run's device and in its memory format."""
        return to_device(batch, self.model, channels_last=self.settings.channels_last)

    def evaluate(self, loader: Loader) -> float:
        """The task's deciding metric on `loader`, in the run's precision."""
        return self.measure(loader)[self.task.metric]

    def measure(self, loader: Loader) -> dict[str, float]:
        """All of the task's metrics on `loader`, in the run's precision."""
        self.share_buffers()
        with self.recorder.clock.stage("evaluation"), self._accelerator.autocast():
            return measure(self.judged, loader, self.task, channels_last=self.settings.channels_last, divided=True)

    def recalibrate(self, loader: Loader, *, batches: int = 10) -> None:
        """Estimate the batch-norm statistics anew, in the run's precision."""
        with self.recorder.clock.stage("recalibration"), self._accelerator.autocast():
            for network in dict.fromkeys((self.model, self.judged)):
                recalibrate(network, loader, batches=batches)

    def keep_teacher(self, *, trained: bool) -> None:
        """From now on learn from the network as it is at this moment, too: less and less where it is not `trained` yet.

        Nothing where the settings ask for no distillation, or there is a teacher already. The network must be whole
        still.
        """
        if self._teacher is not None:
            self.share_buffers()
            self._teacher.take(self.judged, None if trained else self._progress)

    def anew(self, model: torch.nn.Module, optimizer: Optimizer | None = None) -> Trainer:
        """A trainer of `model`, this one's own or a copy, with a new optimizer: of other settings where some are given.

        It learns from the same teacher, and its passes over the data follow this one's.
        """
        changes = {"distill": None, "optimizer": optimizer or self.settings.optimizer}
        settings = self.settings.model_copy(update=changes)
        batches = self.steps_per_epoch * settings.accumulate
        other = Trainer(model, settings, batches, self.recorder, self.task)
        other._teacher, other.epoch = self._teacher, self.epoch
        return other

    def share_buffers(self) -> None:
        """Give all processes that train together the same batch-norm statistics; see `_processes.share_buffers`."""
        for network in dict.fromkeys((self.model, self.judged)):
            share_buffers(network)

    def lay_out(self) -> None:
        """Give the convolutions their memory format; a removal makes new weights, so it is called after one too."""
        if self.settings.channels_last:
            for network in (self.model, *self.averaged):
                network.to(memory_format=torch.channels_last)

    def _run_epoch(
        self, epoch: int, train: Rest, validation: Loader, hooks: Hooks, saver: Saver, partial: Partial
    ) -> float:
        clock = self.recorder.clock
        before = clock.seconds()
        train.set_epoch(epoch)
        if partial.batches == 0:
            with clock.stage("search"):
                hooks.start_epoch(epoch)
        learning_rate = self._rate_at(epoch * self.steps_per_epoch)  # of its first step, even where this goes on within
        with clock.stage("train"):
            loss = self._train_epoch(train, hooks, partial, saver.step_done)
        metrics = self.measure(validation)
        accuracy = metrics[self.task.metric]
        self.epoch = epoch + 1
        self.recorder.write(
            "epoch",
            epoch=self.epoch,
            epochs=self.settings.epochs,
            loss=loss,
            validation_accuracy=accuracy,
            metric=self.task.metric,
            metrics=metrics,
            learning_rate=learning_rate,
            seconds=seconds_between(before, clock.seconds()),
        )
        return accuracy

    def _train_epoch(
        self, train: Iterable[Batch], hooks: Hooks, partial: Partial, step_done: Callable[[Partial], None]
    ) -> float:
        """The rest of a pass, of which `partial` is done; returns the mean loss over the whole of it, as its batches
        were trained on."""
        clock = self.recorder.clock
        self.model.train()
        for window in windows(train, self.settings.accumulate):
            loss, examples = self._train_step(window)
            partial.add(loss, examples, batches=len(window))
            with clock.stage("search"):
                hooks.after_step()
            step_done(partial)
        self.share_buffers()
        seen, summed = partial.summed()
        if seen == 0:
            raise DataError("Expected at least one training batch, but the loader gave none")
        mean = summed / seen
        self._require_finite(mean)
        self._require_finite_weights()
        return mean

    def _train_step(self, window: Sequence[Batch]) -> tuple[torch.Tensor, int]:
        """One step of the optimizer on some batches; returns the mean loss of their examples, and how many they are."""
        rate = self.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sizes = [batch_size_of(batch) for batch in window]
        mean: torch.Tensor | float = 0.0
        for number, (batch, size) in enumerate(zip(window, sizes, strict=True), start=1):
            share = size / sum(sizes)
            with nullcontext() if number == len(window) else self._called.alone():
                loss = self._backward(batch, share)
            mean = mean + loss * share
        if self.settings.clip_norm is not None:
            self._accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self._prepared.step()
        self._prepared.zero_grad()
        if self._average is not None:
            self._average.update()
        self.step += 1
        return torch.as_tensor(mean), sum(sizes)

    def _backward(self, batch: Batch, share: float) -> torch.Tensor:
        """Add `share` of the gradient of a batch's loss to the gradients; returns the loss."""
        with self._accelerator.autocast():
            loss = self._loss(self.on_device(batch))
        if loss.device.type == "cpu" or self.step % _LOSS_CHECK_INTERVAL == 0:
            self._require_finite(float(loss.detach()))  # before the update, so that the weights stay good
        self._accelerator.backward(loss * share if share < 1 else loss)
        return loss.detach()

    @property
    def _progress(self) -> float:
        """The share of the run that is done, 0..1."""
        return self.step / self.steps

    def _loss(self, batch: Batch) -> torch.Tensor:
        if self._teacher is not None and self._teacher.teaches:
            return self._teacher.loss(self._called(), batch, self.task, self._progress)
        return self.task.loss(self._called(), batch)

    def _make_teacher(self, network: torch.nn.Module | None) -> Teacher | None:
        distill, precision = self.settings.distill, self.settings.precision
        if distill is None:
            return None
        dense = self.model if network is None else network.to(self._accelerator.device)
        return Teacher(dense, distill, precision, trained=network is not None)

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(f"Expected a finite loss, but got {loss}")

    def _require_finite_weights(self) -> None:
        for name, parameter in self.model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise TrainingError(f"Expected finite weights, but '{name}' holds a non-finite value")

    @contextmanager
    def _explained(self, checkpoint: Path | None) -> Iterator[None]:
        """Say where training broke down, where the last good state is, and what to try."""
        try:
            yield
        except TrainingError as error:
            saved = checkpoint is not None and checkpoint.exists()
            kept = f"the last good epoch is kept in {checkpoint}; " if saved else ""
            raise TrainingError(
                f"{error}, in epoch {self.step // self.steps_per_epoch + 1} of {self.settings.epochs}, after "
                f"{self.step} steps, at a learning rate of {self.learning_rate:.4g}; {kept}lower "
                "train.optimizer.learning_rate, add warm-up (train.schedule.warmup), or set train.clip_norm"
            ) from error
