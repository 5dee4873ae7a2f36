"""A network that is uniformly narrower, trained from scratch: what choosing channels has to beat."""

from __future__ import annotations

from typing import ClassVar, Literal

from icycle.engine import trace
from icycle.methods._registry import Context, Method, MethodResult, register
from icycle.methods._scheduled import RemoveAtStart
from icycle.methods._settings import BudgetSettings, Count, Kept
from icycle.methods.ice._steps import channels_to_keep, plan_steps
from icycle.saliency import score

__all__ = ["Uniform"]


@register
class Uniform(Method):
    """Remove the same share of every group, drawn by chance, before the first step; train."""

    name: Literal["uniform"] = "uniform"
    starts_fresh: ClassVar[bool] = True
    budget: BudgetSettings
    round_to: Count = 1
    limit: Kept = 1.0

    def run(self, context: Context) -> MethodResult:
        structure = trace(context.model, context.example_inputs)
        scores = score("random", context.model, structure, seed=context.seed)
        (step,) = plan_steps(
            structure,
            scores,
            budget=self.budget.build(),
            steps="all",
            scope="group",
            round_to=self.round_to,
            limit=self.limit,
            model=context.model,
        )
        trainer = context.trainer()
        hooks = RemoveAtStart(context, trainer, structure, channels_to_keep(structure, scores, step))
        return MethodResult(context.fit(trainer, hooks))
