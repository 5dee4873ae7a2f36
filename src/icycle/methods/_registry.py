"""What a method is: its settings, and one function that runs it.

A new method is one new file with a class like this, imported in the room's `__init__`:

    @register
    class OneShot(Method):
        name: Literal["one-shot"] = "one-shot"
        ratio: float = 0.5

        def run(self, context: Context) -> MethodResult: ...

The recipe's `method:` section is validated straight into such an object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import nn

from icycle.errors import RecipeError
from icycle.latency import Attempt
from icycle.methods._tunable import SearchSpace, TuneSettings
from icycle.registry import did_you_mean
from icycle.saliency import Scores, spread
from icycle.structure import SubNetwork
from icycle.training import Classification, Hooks, Recorder, Settings, Task, Trainer, TrainSettings, parts_done
from icycle.zoo import Data

__all__ = ["Context", "Effort", "Method", "MethodResult", "Removal", "get_method", "methods", "register"]


@dataclass(frozen=True)
class Removal:
    """One removal of channels: when, and what it did to the metric that decides on the validation split.

    An accuracy is in percent. A method in steps tells all of them as one: `removals` is how many there were.
    """

    epoch: float  # epochs of training that the run had done by then, those of the dense network and of fine-tunes too
    macs_before: int
    macs_after: int
    accuracy_before: float
    accuracy_after: float  # after batch norm was recalibrated
    macs_kept: float  # share of the dense network's that is left
    removals: int = 1


@dataclass(frozen=True)
class Effort:
    """What a run consisted of, counted rather than timed."""

    epochs: float = 0.0  # whole passes over the training data, forward and backward, less what frozen layers save
    examples_read: int = 0  # by decisions
    steps: int = 0  # of removal


@dataclass(frozen=True)
class MethodResult:
    """What a method reports; the model itself was pruned in place."""

    validation_accuracy: float  # the metric that decides, at the end; accuracy in percent
    removals: tuple[Removal, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)  # for readers: words -> JSON values
    effort: Effort | None = None  # where the method counts it


@dataclass(frozen=True)
class Context:
    """What a run hands to its method. The test set can be reached, and must not be: a run opens it after the method."""

    model: nn.Module
    data: Data
    train: TrainSettings
    recorder: Recorder
    seed: int = 0
    checkpoint: Path | None = None  # a folder; where it holds a checkpoint, training goes on from it
    trained: bool = False  # the model comes with trained weights
    task: Task = field(default_factory=Classification)
    teacher: nn.Module | None = None  # a trained network to learn from, where `train.distill` names one

    @property
    def example_inputs(self) -> Any:
        return self.data.example()

    def trainer(self, settings: TrainSettings | None = None) -> Trainer:
        """A trainer of the model; by the recipe's settings unless others are given."""
        chosen = settings or self.train
        return Trainer(self.model, chosen, len(self.data.train), self.recorder, self.task, self.teacher)

    @property
    def parts_done(self) -> int:
        """How many parts of what the method does after training an earlier process of this run has done."""
        return 0 if self.checkpoint is None else parts_done(self.checkpoint)

    def fit(self, trainer: Trainer, hooks: Hooks | None = None) -> float:
        """Train to the trainer's last epoch on the training split; the last value of the deciding metric."""
        return trainer.fit(self.data.train, self.data.validation, hooks=hooks, checkpoint=self.checkpoint)

    @property
    def epochs_trained(self) -> int:
        """How many epochs `fit` has trained; 0 where the network came trained. In a run that was resumed after them, as
        many as the settings say, even where it stopped early."""
        own = (record["epoch"] for record in self.recorder.records if record["kind"] == "epoch")
        return max(own, default=0 if self.trained else self.train.epochs)

    def record_removal(self, removal: Removal) -> None:
        self.recorder.write("removal", **asdict(removal))

    def record_choice(self, criterion: str, scores: Scores, subnet: SubNetwork) -> None:
        """Record by which scores the channels of a removal were chosen."""
        self.recorder.write("saliency", criterion=criterion, groups=spread(scores, subnet))

    def record_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Record the sub-networks that were measured for a latency: milliseconds predicted, measured and allowed."""
        tried = [{"predicted": one.predicted, "measured": one.measured, "allowed": one.allowed} for one in attempts]
        self.recorder.write("latency", attempts=tried)


class Method(Settings, ABC):
    """A method's settings, and what it does with a network, its data and a training loop."""

    name: str
    starts_trained: ClassVar[bool] = False  # from a trained network, which it trains itself if it is given none
    starts_fresh: ClassVar[bool] = False  # from fresh weights, whatever others start from
    has_teacher: ClassVar[bool] = False  # its run has a trained dense network to learn from, once it is pruned

    @property
    def scored_by(self) -> str:
        """The name of the criterion that chooses channels; "" where there is none."""
        return getattr(self, "criterion", "")

    def prepare(self, context: Context) -> None:
        """What has to be done before `run`, once, whatever this method's settings are; by default nothing."""
        return

    @abstractmethod
    def run(self, context: Context) -> MethodResult:
        """Train and prune `context.model` in place."""

    @property
    def tuning(self) -> TuneSettings | None:
        """How the method wants to be tuned before it runs; None: not at all."""
        return None

    def space(self, context: Context) -> SearchSpace | None:
        """What can be tuned in it, for this network and data; None: nothing."""
        return None


_METHODS: dict[str, type[Method]] = {}
M = TypeVar("M", bound=Method)


def register(method: type[M]) -> type[M]:
    """Make a method known under the default of its `name`."""
    _METHODS[method.model_fields["name"].default] = method
    return method


def methods() -> dict[str, type[Method]]:
    """Every registered method by name."""
    return dict(_METHODS)


def get_method(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        RecipeError: no method is called so; names the nearest.
    """
    if name not in _METHODS:
        raise RecipeError(f"Expected a method's name, but got '{name}'; {did_you_mean(name, _METHODS)}")
    return _METHODS[name]
