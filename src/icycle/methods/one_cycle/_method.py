"""One-cycle pruning as a recipe's method: `OneCycle` on the hooks of the built-in loop."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from icycle.methods._registry import Context, Method, MethodResult, Removal, register
from icycle.methods._settings import BudgetSettings, Checked, Count, Kept
from icycle.methods.one_cycle._one_cycle import OneCycle, Phases
from icycle.training import Trainer

__all__ = ["OneCycleMethod"]


@register
class OneCycleMethod(Method):
    """Train from scratch, and remove the channels beyond the budget once the search for them has settled."""

    name: Literal["one-cycle"] = "one-cycle"
    budget: BudgetSettings
    round_to: Count = 1
    limit: Kept = 0.75
    phases: Annotated[Phases, Checked] = Phases()
    calibration_batches: Count = 10

    def run(self, context: Context) -> MethodResult:
        trainer = context.trainer()
        hooks = _OneCycleHooks(self, context, trainer)
        accuracy = context.fit(trainer, hooks)
        return MethodResult(validation_accuracy=accuracy, removals=tuple(hooks.removals))


class _OneCycleHooks:
    """Passes the loop's hooks on to `OneCycle`, and records its searches and its removal."""

    def __init__(self, method: OneCycleMethod, context: Context, trainer: Trainer) -> None:
        self._context = context
        self._trainer = trainer
        self._accuracy_before = 0.0
        self._recorded_searches = 0
        self.removals: list[Removal] = []
        with context.recorder.clock.stage("search"):
            self._pruner = OneCycle(
                context.model,
                context.example_inputs,
                budget=method.budget.build(),
                epochs=context.train.epochs,
                optimizer=trainer.optimizer,
                steps_per_epoch=trainer.steps_per_epoch,
                recalibrate=lambda _: trainer.recalibrate(context.data.calibration, batches=method.calibration_batches),
                round_to=method.round_to,
                limit=method.limit,
                phases=method.phases,
                on_removal=self._measure,
            )

    def start_epoch(self, epoch: int) -> None:
        self._pruner.start_epoch(epoch)
        self._record_search()

    def after_step(self) -> None:
        self._pruner.after_step()
        self._record_search()

    def state_dict(self) -> dict[str, Any]:
        return {**self._pruner.state_dict(), "removals": [asdict(removal) for removal in self.removals]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = {key: value for key, value in state.items() if key != "removals"}
        self._pruner.load_state_dict(own)
        self.removals = [Removal(**removal) for removal in state["removals"]]

    def _measure(self, moment: Literal["before", "after"]) -> None:
        """Read the validation accuracy on both sides of the removal."""
        if moment == "before":
            self._record_search()
            self._accuracy_before = self._trainer.evaluate(self._context.data.validation)
            return
        self._trainer.lay_out()
        structure = self._pruner.structure
        removal = Removal(
            epoch=self._trainer.step / self._trainer.steps_per_epoch,
            macs_before=structure.macs(),
            macs_after=structure.macs(self._pruner.subnet),
            accuracy_before=self._accuracy_before,
            accuracy_after=self._trainer.evaluate(self._context.data.validation),
        )
        self.removals.append(removal)
        self._context.record_removal(removal)

    def _record_search(self) -> None:
        if self._pruner.report.searches == self._recorded_searches:
            return
        self._recorded_searches = self._pruner.report.searches
        self._context.recorder.write(
            "search",
            epoch=self._trainer.step / self._trainer.steps_per_epoch,
            stability=self._pruner.indicator,
            macs_kept=self._pruner.report.achieved["macs"],
        )
