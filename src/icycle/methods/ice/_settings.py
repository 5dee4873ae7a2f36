"""The settings of ICE and of what it is compared with; each is stated here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import nn

from icycle.latency import Attempt
from icycle.methods._settings import BudgetSettings, Checked, Count, Kept, Positive, Share
from icycle.methods.ice._curve import Curve
from icycle.methods.ice._steps import Scope, Scores, Step, plan_steps
from icycle.structure import Structure
from icycle.training import Settings

__all__ = ["IceSettings", "StepwiseSettings"]

StepNames = Literal["group", "block", "all"] | Count | tuple[tuple[str, ...], ...]


class StepwiseSettings(Settings):
    """What is removed, and when; the same for ICE and for all that it is compared with. See `icycle.ice`."""

    ratio: Share | None = None
    budget: BudgetSettings | None = None
    groups: tuple[str, ...] = ("*",)
    steps: StepNames = "block"
    scope: Scope = "group"
    round_to: Count = 1
    limit: Kept = 0.75
    criterion: str | None = None
    criterion_batches: Count = 8
    calibration_batches: Count = 4
    compensate: bool = True
    curve: Annotated[Curve, Checked] = Curve()

    @model_validator(mode="after")
    def _one_target(self) -> StepwiseSettings:
        if (self.ratio is None) == (self.budget is None):
            raise ValueError(f"Expected exactly one of ratio and budget, but got {self.ratio} and {self.budget}.")
        return self

    @property
    def scored_by(self) -> str:
        """The criterion. Where it is left open: the one that knows of compensation, if there is any."""
        return self.criterion or ("reconstruction" if self.compensate else "group_norm")

    def plan(
        self,
        structure: Structure,
        scores: Scores,
        model: nn.Module,
        on_attempts: Callable[[Sequence[Attempt]], object] | None = None,
    ) -> tuple[Step, ...]:
        """The steps for a dense `model` of this structure and these scores; the rest as in `plan_steps`."""
        return plan_steps(
            structure,
            scores,
            ratio=self.ratio,
            budget=None if self.budget is None else self.budget.build(),
            groups=self.groups,
            steps=self.steps,
            scope=self.scope,
            round_to=self.round_to,
            limit=self.limit,
            model=model,
            on_attempts=on_attempts,
        )


class IceSettings(StepwiseSettings):
    """All that decides the course of a run; see `icycle.ice`."""

    steps: StepNames = 2
    epochs: Annotated[float, Field(ge=0)] = 0.0
    data_share: Kept = 1.0
    decay: bool = True
    threshold: Annotated[float, Field(gt=0, lt=100)] | None = 10.0
    confidence: Annotated[float, Field(ge=0.5, lt=1)] | None = 0.95
    calibrate: bool = True
    freeze: Share = 0.0
    freezing: Literal["prefix", "published"] = "prefix"
    final_epochs: Annotated[int, Field(ge=0)] = 16
    final_decay: bool = True
    final_factor: Positive = 2.0
    drop: Annotated[float, Field(ge=0, lt=100)] | None = 1.0
    patience: Count | None = None

    @model_validator(mode="after")
    def _threshold_decides(self) -> IceSettings:
        """One that is set, while there are no fine-tunes in between by default, is taken for a wish to have them."""
        if "threshold" in self.model_fields_set and "epochs" not in self.model_fields_set:
            raise ValueError(
                "threshold: triggers fine-tunes in between, and there are none by default; set their epochs, 1 say, or "
                "leave it out (drop is what the final fine-tune may end below the dense network by)."
            )
        return self

    @model_validator(mode="after")
    def _probe_trains(self) -> IceSettings:
        if self.freezing == "published" and self.freeze > 0 and self.epochs == 0:
            raise ValueError("freezing 'published' trains a copy as long as a step, so it needs epochs above 0")
        return self

    @property
    def at_once(self) -> bool:
        """Does all that is left go at once, unless that needs a fine-tune first? What is not refitted cannot be judged,
        and put back, before it is gone."""
        judged = self.compensate and self.threshold is not None
        return isinstance(self.steps, int) and (self.epochs == 0 or judged)
