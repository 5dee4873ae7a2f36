"""What a network is trained for: a loss, metrics, and which of them decides.

The loop, evaluation and the methods know nothing else of a task. A task of one's own is a subclass of `Task`, or of
`Supervised` where the loss is a function of outputs and targets, and is named by its import path.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field, model_validator
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from icycle.errors import DataError, TrainingError
from icycle.training._batches import Batch, Loader, batch_size_of, run_model, split_batch, to_device
from icycle.training._modes import modes_kept
from icycle.training._outputs import logits_of, require_fitting
from icycle.training._processes import from_first, gathered, largest, part_of, process_count, totals
from icycle.training._settings import Settings

__all__ = ["Classification", "Supervised", "Task", "by_parts", "correct_batches", "divergence", "is_part", "measure"]

F = TypeVar("F", bound=Callable[..., dict[str, float]])


def by_parts(metrics: F) -> F:
    """Marks a task's `metrics` as one that puts together what several processes find, each in its part of the examples:
    `is_part(loader)` says whether it has to. Where the mark is missing, every process is given all examples."""
    metrics.by_parts = True  # type: ignore[attr-defined]
    return metrics


def is_part(loader: Iterable[Batch]) -> bool:
    """Are these batches one process's part of the examples?"""
    return isinstance(loader, _Counted) and loader.is_part


class Task(Settings, ABC):
    """A task's settings, and what it makes of a model and its data.

    `metric` names the metric that decides. Where higher is better it is in percent, 0..100; where lower is better it
    is above 0. Batches come on the model's device; `metrics` and `correct` find the model in evaluation mode, and
    gradients off.
    """

    name: str  # in a recipe the import path; by itself the class's name
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        unnamed = isinstance(values, dict) and "name" not in values and cls.model_fields["name"].is_required()
        return {"name": cls.__name__, **values} if unnamed else values

    @abstractmethod
    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """What training makes small, for one batch: a scalar with a gradient."""

    @abstractmethod
    def metrics(self, model: torch.nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        """Every metric by name over the batches of `loader`; `metric` is one of them."""

    def prepare(self) -> None:
        """Import what `metrics` needs: called before the clock of a run starts; by default nothing."""
        return

    def correct(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor | None:
        """Which examples are judged right, bool `(batch,)`; None where there is no right and wrong.

        Where there is, `metric` must be the share of the right ones.
        """
        return None

    @property
    def judges(self) -> bool:
        """Does the task say of every example that it is right or wrong?"""
        return type(self).correct is not Task.correct

    def points(self, value: float) -> float:
        """A value of the deciding metric on a scale where higher is better, and differences are points.

        A percentage is itself. An error is minus 100 times its logarithm: a point lost is an error grown by 1 %.
        """
        if self.higher_is_better:
            return value
        if not value > 0:
            raise TrainingError(f"Expected the {self.metric} that is to become small to be above 0, but got {value}")
        return -100.0 * math.log(value)

    def value(self, points: float) -> float:
        """The inverse of `points`."""
        return points if self.higher_is_better else math.exp(-points / 100.0)


class Supervised(Task):
    """A task whose loss is a function of the model's outputs and the targets."""

    @abstractmethod
    def loss_of(self, outputs: Any, targets: Any) -> torch.Tensor:
        """The loss, a scalar."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        inputs, targets = split_batch(batch)
        return self.loss_of(run_model(model, inputs), targets)

    def imitation_loss(self, outputs: Any, taught: Any, targets: Any, temperature: float) -> torch.Tensor:
        """How far a network's outputs are from its teacher's, a scalar; of classes by `divergence`.

        A task that does not define it cannot be distilled.
        """
        raise NotImplementedError

    @property
    def can_be_taught(self) -> bool:
        """Does the task say how far outputs are from a teacher's?"""
        return type(self).imitation_loss is not Supervised.imitation_loss


def divergence(
    logits: torch.Tensor,
    taught: torch.Tensor,
    temperature: float,
    *,
    dim: int = 1,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """temperature^2 * KL(taught || logits), both softened by the temperature: a mean, and its gradient does not depend
    on the temperature much.

    Args:
        logits, taught: of one shape; the classes lie in dimension `dim`.
        counted: which places count, a bool of that shape without `dim`; all by default.
    """
    own, wanted = (log_softmax(values.float() / temperature, dim=dim) for values in (logits, taught))
    distances = kl_div(own, wanted, reduction="none", log_target=True).sum(dim)
    if counted is None:
        return temperature**2 * distances.mean()
    return temperature**2 * (distances * counted).sum() / counted.sum().clamp(min=1)


class Classification(Supervised):
    """One class per example. Targets: int64 `(batch,)`, or probabilities `(batch, classes)` of mixed examples."""

    name: Literal["classification"] = "classification"
    metric: ClassVar[str] = "accuracy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def loss_of(self, outputs: Any, targets: Any) -> torch.Tensor:
        logits, shares = logits_of(outputs), targets.is_floating_point()
        fits = logits.dim() > 1 and targets.shape == (logits.shape if shares else (len(logits), *logits.shape[2:]))
        require_fitting(fits, "logits (batch, classes) and integers (batch) for classification", logits, targets)
        return cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def imitation_loss(self, outputs: Any, taught: Any, targets: Any, temperature: float) -> torch.Tensor:
        return divergence(logits_of(outputs), logits_of(taught), temperature)

    def correct(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        inputs, targets = split_batch(batch)
        return logits_of(run_model(model, inputs)).argmax(dim=1) == targets

    @by_parts
    def metrics(self, model: torch.nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
        correct: torch.Tensor | float = 0
        seen = 0
        for batch in loader:
            # Summed on the device: reading it once at the end keeps an accelerator's queue full.
            right = self.correct(model, batch)
            correct, seen = correct + right.sum(), seen + len(right)
        counts = totals(float(correct), seen) if is_part(loader) else (float(correct), seen)
        return {"accuracy": 100.0 * counts[0] / counts[1]}


@torch.no_grad()
def measure(
    model: torch.nn.Module, loader: Loader, task: Task, *, channels_last: bool = False, divided: bool = False
) -> dict[str, float]:
    """The task's metrics on `loader`, in evaluation mode; every module's mode is put back.

    `divided`: all processes that train together call it, with the same loader, and are given the same metrics. Each
    example is then read by one of them, or by all where the task cannot put parts together (see `by_parts`).

    Raises:
        DataError: the loader is empty.
        TrainingError: the deciding metric is missing, or not a finite number; or it comes from no example.
    """
    divided = divided and process_count() > 1
    part = _own_part(loader) if divided and hasattr(type(task).metrics, "by_parts") else None
    batches = _Counted(loader, part, model, channels_last)
    with modes_kept(model):
        model.eval()
        try:
            found = task.metrics(model, batches)
        except ZeroDivisionError as error:
            batches.require_read(task)
            raise TrainingError(
                f"Expected task '{task.name}' to measure its {task.metric}, but its metrics divided by zero on "
                f"{batches.examples} examples; do they hold some of every kind that it counts?"
            ) from error
    batches.require_read(task)
    value = found.get(task.metric)
    if value is None or not math.isfinite(value):
        raise TrainingError(
            f"Expected task '{task.name}' to measure a finite {task.metric}, which decides, but got {found}"
        )
    return from_first(found) if divided else found


def _own_part(loader: Loader) -> Iterable[Batch] | None:
    """This process's part of the examples; None where that of any process is empty."""
    batches = iter(part_of(loader, even=False))
    first = next(batches, None)
    if largest(first is None)[0]:
        return None
    return chain([first], batches)


@torch.no_grad()
def correct_batches(
    model: torch.nn.Module, loader: Iterable[Batch], task: Task, *, divided: bool = False
) -> Generator[torch.Tensor, None, None]:
    """For each batch which of its examples are judged right, bool `(batch,)`, in evaluation mode.

    The modules' modes are put back when the last batch is done, or the generator is closed. `divided`: as in `measure`;
    all processes are given the whole answer, and must read equally many batches.

    Raises:
        TrainingError: the task knows no right and wrong.
    """
    if divided and process_count() > 1:
        nothing = torch.empty(0, dtype=torch.bool, device=next(model.parameters()).device)
        with closing(correct_batches(model, part_of(loader, even=False), task)) as parts:
            part = next(parts, None)
            while largest(part is not None)[0]:  # of a short last batch some have nothing
                yield gathered(nothing if part is None else part)
                part = next(parts, None)
        return
    with modes_kept(model):
        model.eval()
        for batch in loader:
            right = task.correct(model, to_device(batch, model))
            if right is None:
                raise TrainingError(f"Expected a task that judges examples right or wrong, but got '{task.name}'")
            yield right


class _Counted:
    """The batches of a loader, or one process's part of them, on the model's device; how many examples they held."""

    def __init__(
        self, loader: Loader, part: Iterable[Batch] | None, model: torch.nn.Module, channels_last: bool
    ) -> None:
        self._loader = loader
        self._batches = loader if part is None else part
        self._model = model
        self._channels_last = channels_last
        self.is_part = part is not None
        self.examples: int | None = None  # None: nobody has asked for them

    def require_read(self, task: Task) -> None:
        """Raise unless a task's metrics come from examples."""
        if self.examples is None:
            raise TrainingError(f"Expected the metrics of task '{task.name}' to read the loader, but they did not")
        if self.examples == 0:
            raise DataError(
                "Expected at least one example to evaluate on, but the loader gave none; use a larger split"
            )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        self.examples = self.examples or 0
        for batch in self._batches:
            self.examples += batch_size_of(batch)
            yield to_device(batch, self._model, channels_last=self._channels_last)
