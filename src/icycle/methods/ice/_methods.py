"""ICE as a recipe's method, on the built-in training loop."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from icycle.engine import trace
from icycle.errors import DataError, RecipeError
from icycle.methods._built_in import BuiltInTraining
from icycle.methods._registry import Context, Effort, Method, MethodResult, Removal, register
from icycle.methods._settings import Checked, Kept, Share, known_criterion
from icycle.methods._tunable import SearchSpace, TuneSettings
from icycle.methods.ice._curve import Curve
from icycle.methods.ice._ice import IceRun
from icycle.methods.ice._prefix_cache import StoredPrefix
from icycle.methods.ice._result import IceResult, IceStep
from icycle.methods.ice._settings import IceSettings, StepwiseSettings
from icycle.methods.ice._space import IceSpace
from icycle.methods.ice._trigger import require_size
from icycle.saliency import score
from icycle.training import SGD, Optimizer, PartSaver, TrainSettings

__all__ = ["IceMethod", "IcePublished", "Stepwise"]

_MIB = 2**20


class Stepwise(StepwiseSettings, Method):
    """A method that removes channels in steps, from a trained network: `model.weights`, or it is trained first by the
    recipe's `train` section."""

    starts_trained: ClassVar[bool] = True
    has_teacher: ClassVar[bool] = True

    @model_validator(mode="after")
    def _possible(self) -> Stepwise:
        known_criterion(self.scored_by)
        return self

    def settings(self, train: TrainSettings) -> IceSettings:
        """The course of the run: the settings of the same names, and what the method fixes."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name in IceSettings.model_fields}
        own |= self.fixed()
        return IceSettings(**{**own, "curve": own["curve"].after(train.optimizer.learning_rate)})

    def fixed(self) -> dict[str, Any]:
        """The settings that make this method what it is."""
        return {}

    @property
    def reuse_bytes(self) -> int:
        """What the stored outputs of a frozen prefix may take."""
        return 0

    @property
    def fresh_optimizer(self) -> Optimizer | None:
        """The optimizer that each fine-tune begins anew; None: that of `train` lives throughout."""
        return None

    def prepare(self, context: Context) -> None:
        """Train the network, unless it comes trained; whatever can be wrong with steps and data shows before."""
        if context.trained and context.train.early_stopping is not None:
            raise RecipeError(
                "Expected no train.early_stopping, as the network comes trained, but got "
                f"{context.train.early_stopping}; leave it out: fine-tunes have lengths of their own (method.patience)"
            )
        settings = self.settings(context.train)
        structure = trace(context.model, context.example_inputs)
        settings.plan(structure, score("random", context.model, structure), context.model)
        if settings.epochs and settings.threshold is not None and settings.confidence is not None:
            if context.task.judges:
                require_size(context.data.validation.examples, settings.threshold, settings.confidence)
        _require_a_batch(context, settings.data_share)
        if not context.trained:
            context.fit(context.trainer())

    def run(self, context: Context) -> MethodResult:
        cache = StoredPrefix(context.data.train, self.reuse_bytes)
        training = BuiltInTraining(context, cache=cache, fresh=self.fresh_optimizer)
        run = IceRun(
            self.settings(context.train),
            context.model,
            context.example_inputs,
            training,
            seed=context.seed,
            clock=context.recorder.clock,
            on_attempts=context.record_attempts,
            on_choice=lambda scores, subnet: context.record_choice(self.scored_by, scores, subnet),
            on_step=lambda step: _write(context, run, step),
            on_part=lambda: saver.part_done(),
        )
        saver = PartSaver(training.trainer, context.checkpoint, _State(run, cache))
        saver.restore()
        training.trainer.keep_teacher(trained=True)
        result = run()
        accuracy = context.task.value(result.accuracy)
        return MethodResult(accuracy, (_removal(result, context),), _details(result), _effort(result))


@register
class IceMethod(IceSettings, Stepwise):
    """Prune a trained network at once, or in steps with a fine-tune between them where that would cost too much."""

    name: Literal["ice"] = "ice"
    reuse_mib: Annotated[int, Field(ge=0)] = 1024
    tune: TuneSettings | None = None

    @field_validator("tune", mode="before")
    @classmethod
    def _trials_alone(cls, value: Any) -> Any:
        """`tune: N` is short for N trials by the defaults; 0 for none."""
        if isinstance(value, int) and not isinstance(value, bool):
            return {"trials": value} if value else None
        return value

    @property
    def reuse_bytes(self) -> int:
        return self.reuse_mib * _MIB

    @property
    def tuning(self) -> TuneSettings | None:
        return self.tune

    def space(self, context: Context) -> SearchSpace:
        return IceSpace(self, context)


@register
class IcePublished(Stepwise):
    """ICE as published: L1, no recalibration, exact evaluation; each fine-tune has a constant rate, a new optimizer and
    `data_share` of the training data; frozen are the convolutions that move least in a copy of the dense network."""

    name: Literal["ice-published"] = "ice-published"
    criterion: str = "l1"
    curve: Annotated[Curve, Checked] = Curve(base=0.003, delta=7e-4, p=0.15, beta=50.0)
    epochs: Annotated[float, Field(gt=0)] = 1.0
    data_share: Kept = 1.0
    threshold: Annotated[float, Field(gt=0, lt=100)] = 1.0
    freeze: Share = 0.5
    final_epochs: Annotated[int, Field(ge=0)] = 1

    @property
    def fresh_optimizer(self) -> Optimizer:
        return SGD(learning_rate=self.curve.highest, momentum=0.9, weight_decay=1e-4)

    def fixed(self) -> dict[str, Any]:
        return {
            "confidence": None,
            "calibrate": False,
            "compensate": False,
            "freezing": "published",
            "decay": False,
            "final_decay": False,
            "drop": None,
        }


def _require_a_batch(context: Context, share: float) -> None:
    """Does a share of the training data hold a batch?

    Raises:
        DataError: it does not.
    """
    train = context.data.train
    if share * train.examples < train.batch_size:
        raise DataError(
            f"Expected method.data_share={share:g} to hold a batch of {train.batch_size} at least, but it holds "
            f"{int(share * train.examples)} of {train.examples} training examples; raise it, or lower train.batch_size"
        )


class _State:
    """What is kept of a run besides the model: its own state, and whether the outputs of a frozen prefix are stored."""

    def __init__(self, run: IceRun, cache: StoredPrefix) -> None:
        self._run = run
        self._cache = cache

    def state_dict(self) -> dict[str, Any]:
        held = self._cache.holds(self._run.model, self._run.result.frozen)
        return {**self._run.state_dict(), "prefix stored": held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._run.load_state_dict(state)
        if state["prefix stored"]:
            self._cache.held(self._run.model, self._run.result.frozen)


def _write(context: Context, run: IceRun, step: IceStep) -> None:
    result, record = run.result, asdict(step)
    points = record["decision"]["accuracy"]
    record["decision"]["accuracy"] = None if points is None else context.task.value(points)
    context.recorder.write(
        "step",
        **record,
        of=len(run.steps),
        macs_kept=step.macs / result.macs_before,
        effort=asdict(_effort(result)),
    )


def _effort(result: IceResult) -> Effort:
    return Effort(result.epoch_equivalents, result.examples_read, result.steps_done)


def _removal(result: IceResult, context: Context) -> Removal:
    """All steps as one removal, from the dense network to what is left right after the last one, whose time it has."""
    task = context.task
    known = (result.accuracy_removed, result.accuracy_before_final, result.accuracy)
    removed = next(accuracy for accuracy in known if accuracy is not None)
    before = sum(step.fine_tuned for step in result.steps[:-1])
    return Removal(
        epoch=context.epochs_trained + before,
        macs_before=result.macs_before,
        macs_after=result.structure.macs(),
        accuracy_before=task.value(result.dense_accuracy),
        accuracy_after=task.value(removed),
        macs_kept=result.structure.macs() / result.macs_before,
        removals=len(result.steps),
    )


def _details(result: IceResult) -> dict[str, Any]:
    """What there is to tell; nothing of parts that are off."""
    frozen = result.frozen
    details: dict[str, Any] = {
        "steps": result.steps_done,
        "removals": len(result.steps),
        "fine-tunes of steps": result.fine_tunes,
        "epochs of fine-tuning": round(result.epochs, 3),
        "end of the final fine-tune": result.ended or "there was none",
        "seconds": result.seconds,
    }
    if result.share_read:
        details["share of the validation split read per decision"] = round(result.share_read, 3)
    if frozen:
        details |= {
            "share of the layers frozen": round(frozen.share, 3),
            "share of the multiplications in the frozen prefix": round(frozen.prefix_share, 3),
            "cut of the frozen prefix": frozen.cut or "none",
        }
    return details
