"""ICE and what it is compared with, as a recipe's methods: one algorithm, different settings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch.nn.functional import cross_entropy

from icycle.engine import trace
from icycle.errors import IcycleError, TrainingError
from icycle.methods._ice import FineTune, Ice, IceResult, IceStep, _Run
from icycle.methods._ice_curve import Curve
from icycle.methods._ice_replay import StoredPrefix
from icycle.methods._ice_trigger import require_size
from icycle.methods._one_cycle_run import BudgetSettings
from icycle.methods._registry import Context, Method, MethodResult, Removal, register
from icycle.saliency import check, score
from icycle.training import Settings, logits_of

__all__ = ["CurveSettings", "IceMethod", "IcePublished", "Iterative", "OneShot", "Stepwise", "TuneSettings"]

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
StepNames = Literal["group", "block", "all"] | tuple[tuple[str, ...], ...]

_MIB = 2**20


class CurveSettings(Settings):
    """The learning rate by what remains of the weights; see `Curve`."""

    base: Positive = Curve.base
    delta: Annotated[float, Field(ge=0)] = Curve.delta
    p: Annotated[float, Field(gt=0, lt=1)] = Curve.p
    beta: Positive = Curve.beta

    @model_validator(mode="after")
    def _consistent(self) -> CurveSettings:
        try:
            self.build()
        except TrainingError as error:
            raise ValueError(str(error)) from error
        return self

    def build(self) -> Curve:
        return Curve(**self.model_dump())


class TuneSettings(Settings):
    """How a method finds its own settings; see `icycle.tuning.tune`."""

    trials: Count = 12
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    drop: Positive = 2.0
    sampler: Literal["tpe", "grid"] = "tpe"
    storage: str | None = None
    study: Annotated[str, Field(min_length=1)] = "icycle"


class Stepwise(Method):
    """What is removed, and when; the same for ICE and for all that it is compared with.

    Starts from a trained network: `model.weights`, or it is trained first by the recipe's `train` section.
    """

    ratio: Share | None = None
    budget: BudgetSettings | None = None
    groups: tuple[str, ...] = Ice.groups  # type: ignore[assignment]
    steps: StepNames = "block"
    scope: Literal["group", "step", "global"] = Ice.scope
    round_to: Count = Ice.round_to
    limit: Annotated[float, Field(gt=0, le=1)] = Ice.limit
    criterion: str = Ice.criterion
    criterion_batches: Count = Ice.criterion_batches
    curve: CurveSettings = CurveSettings()
    epochs: Positive = Ice.epochs
    calibration_batches: Count = Ice.calibration_batches

    @model_validator(mode="after")
    def _possible(self) -> Stepwise:
        try:
            self.settings(seed=0)
            check(self.criterion, loader=(), loss=cross_entropy)
        except IcycleError as error:
            raise ValueError(str(error)) from error
        return self

    def settings(self, seed: int) -> Ice:
        """The algorithm's settings: the fields of the same names, and what the method fixes."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name in Ice.__dataclass_fields__}
        own["curve"] = self.curve.build()
        own["budget"] = self.budget.build() if self.budget is not None else None
        return Ice(**{**own, **self.fixed(), "seed": seed})

    def fixed(self) -> dict[str, Any]:
        """The algorithm's settings that make this method what it is."""
        return {}

    @property
    def reuse_bytes(self) -> int:
        """What the stored outputs of a frozen prefix may take."""
        return 0

    def prepare(self, context: Context) -> None:
        """Train the network, unless it comes trained; whatever can be wrong with steps and data shows before."""
        settings = self.settings(context.seed)
        structure = trace(context.model, context.example_inputs)
        settings.plan(structure, score("random", context.model, structure))
        if settings.threshold is not None and settings.confidence is not None:
            require_size(len(context.data.validation.images), settings.threshold, settings.confidence)
        if not context.trained:
            context.fit(context.trainer())

    def run(self, context: Context) -> MethodResult:
        result = _BuiltIn(self, context).run()
        return MethodResult(result.accuracy, removals=(_removal(result),), details=_details(result))


@register
class IceMethod(Stepwise):
    """Prune a trained network step by step, and fine-tune it only when it must be."""

    name: Literal["ice"] = "ice"
    trigger: bool = True
    threshold: Annotated[float, Field(gt=0, lt=100)] = 10.0
    confidence: Annotated[float, Field(ge=0.5, lt=1)] | None = Ice.confidence
    calibrate: bool = Ice.calibrate
    adapt: bool = True
    decay: bool = Ice.decay
    freeze: Share = Ice.freeze
    probe_epochs: Positive = Ice.probe_epochs
    reuse_mib: Annotated[int, Field(ge=0)] = 1024
    final_epochs: Annotated[int, Field(ge=0)] = Ice.final_epochs
    final_factor: Positive = Ice.final_factor
    final_decay: bool = Ice.final_decay
    patience: Count | None = Ice.patience
    tune: TuneSettings | None = None

    @field_validator("tune", mode="before")
    @classmethod
    def _trials_alone(cls, value: Any) -> Any:
        """`tune: N` is short for N trials by the defaults; 0 for none."""
        if isinstance(value, int) and not isinstance(value, bool):
            return {"trials": value} if value else None
        return value

    def fixed(self) -> dict[str, Any]:
        """The ablations: without the trigger a fine-tune follows every step, without the curve the rate is flat."""
        changed: dict[str, Any] = {} if self.trigger else {"threshold": None}
        return changed if self.adapt else {**changed, "curve": self.curve.build().flat()}

    @property
    def reuse_bytes(self) -> int:
        return self.reuse_mib * _MIB


@register
class Iterative(Stepwise):
    """The baseline: prune step by step, and fine-tune after every step."""

    name: Literal["iterative"] = "iterative"
    decay: bool = False

    def fixed(self) -> dict[str, Any]:
        flat = self.curve.build().flat()
        return {"threshold": None, "calibrate": False, "freeze": 0.0, "final_epochs": 0, "curve": flat}


@register
class OneShot(Stepwise):
    """Prune everything at once, then fine-tune once, at a decaying rate."""

    name: Literal["one-shot"] = "one-shot"
    final_epochs: Count = 4
    final_factor: Positive = Ice.final_factor

    def fixed(self) -> dict[str, Any]:
        never = 99.999
        return {"steps": "all", "threshold": never, "confidence": None, "freeze": 0.0}


@register
class IcePublished(Stepwise):
    """ICE as published: its settings, no recalibration, a constant rate within a step, exact evaluation."""

    name: Literal["ice-published"] = "ice-published"
    curve: CurveSettings = CurveSettings(base=0.003, delta=7e-4, p=0.15, beta=50.0)
    threshold: Annotated[float, Field(gt=0, lt=100)] = 1.0
    freeze: Share = 0.5
    final_epochs: Annotated[int, Field(ge=0)] = 1

    def fixed(self) -> dict[str, Any]:
        return {
            "confidence": None,
            "calibrate": False,
            "freezing": "published",
            "probe_epochs": 1.0,
            "decay": False,
            "final_decay": False,
        }


class _BuiltIn:
    """A run on the built-in training loop: what a user's own code gives `ice`, and records of every step."""

    def __init__(self, method: Stepwise, context: Context) -> None:
        self._context = context
        self._data = context.data
        self._trainer = context.trainer()
        self._stored = StoredPrefix(context.data.train, method.reuse_bytes)
        self._validation = _shuffled(context)
        self._run = run = _Run(method.settings(context.seed), context.model, context.example_inputs)
        run.clock = context.recorder.clock
        run.fine_tune, run.evaluate = self._fine_tune, self._evaluate
        run.optimizer = self._trainer.optimizer
        run.right = lambda model: self._on(model).evaluate_batches(self._validation)
        run.calibration = self._recalibrate
        run.loader = context.data.calibration
        run.loss = lambda outputs, labels: cross_entropy(logits_of(outputs), labels)
        run.on_step = self._record
        self._batches = method.calibration_batches

    def run(self) -> IceResult:
        return self._run()

    def _on(self, model: torch.nn.Module) -> Any:
        assert model is self._trainer.model
        self._trainer.lay_out()  # a removal makes new weights
        return self._trainer

    def _evaluate(self, model: torch.nn.Module) -> float:
        return float(self._on(model).evaluate(self._data.validation))

    def _recalibrate(self, model: torch.nn.Module) -> None:
        self._on(model).recalibrate(self._data.calibration, batches=self._batches)

    def _fine_tune(self, model: torch.nn.Module, request: FineTune) -> None:
        trainer = self._on(model)

        def forward(images: torch.Tensor) -> Any:
            with trainer.autocast():
                return model.train()(trainer.formatted(images))

        replayed = self._stored.replayed(model, request.frozen, forward, request.epochs_left)
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

    def _record(self, step: IceStep) -> None:
        result = self._run.result
        self._context.recorder.write(
            "step",
            **asdict(step),
            of=self._run.planned,
            macs_kept=step.macs / result.macs_before,
            effort=result.effort,
            examples_read=result.examples_read,
        )


def _shuffled(context: Context) -> Any:
    """The validation split in an order that has nothing to do with its labels, in batches that let a test end early."""
    loader = context.data.validation
    order = torch.randperm(len(loader.images), generator=torch.Generator().manual_seed(context.seed))
    return loader.over(loader.images.take(order), batch_size=context.data.train.batch_size)


def _removal(result: IceResult) -> Removal:
    """All steps as one removal, from the dense network to what the final fine-tune begins with."""
    final = result.accuracy if result.accuracy_before_final is None else result.accuracy_before_final
    steps = sum(step.fine_tuned for step in result.steps)
    return Removal(
        epoch=steps,
        macs_before=result.macs_before,
        macs_after=result.structure.macs(),
        accuracy_before=result.dense_accuracy,
        accuracy_after=final,
    )


def _details(result: IceResult) -> dict[str, Any]:
    frozen = result.frozen
    return {
        "steps": len(result.steps),
        "fine-tunes of steps": result.fine_tunes,
        "epochs of fine-tuning": round(result.epochs, 3),
        "share of the validation split read per decision": round(result.share_read, 3),
        "share of the layers frozen": round(frozen.share, 3) if frozen else 0.0,
        "share of the multiplications in the frozen prefix": round(frozen.prefix_share, 3) if frozen else 0.0,
        "cut of the frozen prefix": (frozen and frozen.cut) or "none",
        "effort": result.effort,
        "examples read": result.examples_read,
        "seconds": result.seconds,
    }
