"""What methods that remove within a training run have in common: what they remove, and how they tell about it."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import AfterValidator

from icycle.compensation import compensate
from icycle.latency import select
from icycle.methods._built_in import BuiltInTraining
from icycle.methods._registry import Context, Removal
from icycle.methods._remove import Refit
from icycle.methods._settings import BudgetSettings, Count, Kept, Positive, known_criterion
from icycle.methods._training import Training
from icycle.saliency import Scores, score
from icycle.structure import Structure, SubNetwork
from icycle.training import Settings

__all__ = ["RemovalLog", "RemovalSettings", "deciding_metric", "refitting"]


class RemovalSettings(Settings):
    """Which channels go: `criterion` scores them, the rest is as in `icycle.select`. Batch norm is recalibrated on
    `calibration_batches` afterwards; with `compensate` what reads them is refitted before, on as many batches."""

    budget: BudgetSettings
    criterion: Annotated[str, AfterValidator(known_criterion)] = "group_norm"
    criterion_batches: Count = 8
    round_to: Count = 1
    limit: Kept = 0.75
    limit_rate: Positive = 0.1
    cost_factor: bool = True
    calibration_batches: Count = 10
    compensate: bool = False

    def scores(self, context: Context, training: Training, structure: Structure) -> Scores:
        """By the criterion, of the network as it is now."""
        return score(
            self.criterion,
            context.model,
            structure,
            loader=training.batches,
            loss=training.loss,
            batches=self.criterion_batches,
            seed=context.seed,
        )

    def select(self, model: torch.nn.Module, structure: Structure, scores: Scores) -> SubNetwork:
        """The best channels within the budget; a latency is measured on copies of the model."""
        return select(
            structure,
            scores,
            self.budget.build(),
            model=model,
            round_to=self.round_to,
            limit=self.limit,
            limit_rate=self.limit_rate,
            cost_factor=self.cost_factor,
        )


def refitting(settings: RemovalSettings, context: Context, training: Training) -> Refit | None:
    """What has to be done to a network right before a removal; None: nothing."""

    def refit(model: torch.nn.Module, structure: Structure, subnet: SubNetwork) -> None:
        assert training.batches is not None
        with context.recorder.clock.stage("compensation"):
            compensate(model, structure, subnet, training.batches, max_batches=settings.calibration_batches)

    return refit if settings.compensate else None


def deciding_metric(context: Context, training: BuiltInTraining) -> float:
    """The metric that decides on the validation split, of the network as it is now: what is told, where
    `training.evaluate` gives its points (see `Task.points`)."""
    return context.task.value(training.evaluate(context.model))


class RemovalLog:
    """Reads the validation metric on both sides of each removal, with recalibrated statistics, and records it."""

    def __init__(self, context: Context, training: BuiltInTraining, batches: int) -> None:
        self._context = context
        self._training = training
        self._batches = batches
        self._before = 0.0
        self.removals: list[Removal] = []

    def before(self) -> None:
        """Call just before a removal; batch-norm statistics are estimated anew."""
        self._training.recalibrate(self._context.model, self._batches)
        self._before = deciding_metric(self._context, self._training)
        self._training.trainer.keep_teacher(trained=False)

    def after(self, epoch: float, macs_before: int, macs_after: int) -> None:
        """Call once the removal is done and the statistics are recalibrated."""
        after = deciding_metric(self._context, self._training)
        dense = self.removals[0].macs_before if self.removals else macs_before
        removal = Removal(epoch, macs_before, macs_after, self._before, after, macs_after / dense)
        self.removals.append(removal)
        self._context.record_removal(removal)
