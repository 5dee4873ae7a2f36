"""One-cycle pruning as a recipe's method: `OneCycle` on the hooks of the built-in loop."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from torch import nn

from icycle.methods._built_in import BuiltInTraining
from icycle.methods._registry import Context, Method, MethodResult, Removal, register
from icycle.methods._removal import RemovalLog, RemovalSettings, deciding_metric, refitting
from icycle.methods._settings import Checked
from icycle.methods.one_cycle._one_cycle import OneCycle, OneCycleReport
from icycle.methods.one_cycle._phases import Phases
from icycle.saliency import Scores
from icycle.structure import Structure

__all__ = ["OneCycleMethod"]


@register
class OneCycleMethod(RemovalSettings, Method):
    """Train, from scratch or from the weights given, and remove the channels beyond the budget within the run, once the
    search for them has settled."""

    name: Literal["one-cycle"] = "one-cycle"
    has_teacher: ClassVar[bool] = True
    phases: Annotated[Phases, Checked] = Phases()

    def run(self, context: Context) -> MethodResult:
        training = BuiltInTraining(context)
        hooks = _Hooks(self, context, training)
        accuracy = context.fit(training.trainer, hooks)
        recalibrated = _recalibrated_metric(context, training, self.calibration_batches)
        return MethodResult(accuracy, tuple(hooks.removals), _details(hooks.report, recalibrated))


class _Hooks:
    """Passes the loop's hooks on to `OneCycle`, and records its searches and its removal."""

    def __init__(self, method: OneCycleMethod, context: Context, training: BuiltInTraining) -> None:
        self._context = context
        self._criterion = method.criterion
        self._scores: Scores = {}  # of the last search
        self._trainer = trainer = training.trainer
        self._log = RemovalLog(context, training, method.calibration_batches)
        self._recorded_searches = 0

        def criterion(_: Any, structure: Structure) -> Scores:
            self._scores = method.scores(context, training, structure)
            return self._scores

        with context.recorder.clock.stage("search"):
            self._pruner = OneCycle(
                context.model,
                context.example_inputs,
                budget=method.budget.build(),
                epochs=context.train.epochs,
                optimizer=trainer.optimizer,
                steps_per_epoch=trainer.steps_per_epoch,
                averaged=trainer.averaged,
                compensate=refitting(method, context, training),
                recalibrate=partial(_recalibrate, training, method.calibration_batches),
                criterion=criterion,
                round_to=method.round_to,
                limit=method.limit,
                limit_rate=method.limit_rate,
                cost_factor=method.cost_factor,
                phases=method.phases,
                on_removal=self._measure,
            )

    @property
    def removals(self) -> list[Removal]:
        return self._log.removals

    @property
    def settled(self) -> bool:
        return self._pruner.removed

    @property
    def report(self) -> OneCycleReport:
        return self._pruner.report

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
        self._log.removals = [Removal(**removal) for removal in state["removals"]]
        self._recorded_searches = self.report.searches

    def _measure(self, moment: Literal["before", "after"]) -> None:
        if moment == "before":
            self._record_search()
            self._log.before()
            return
        structure, epoch = self._pruner.structure, self._trainer.step / self._trainer.steps_per_epoch
        self._log.after(epoch, structure.macs(), structure.macs(self._pruner.subnet))

    def _record_search(self) -> None:
        if self.report.searches == self._recorded_searches:
            return
        self._recorded_searches = self.report.searches
        if self.report.shrink_start is not None:
            self._trainer.keep_teacher(trained=False)  # before weights fade
        self._context.recorder.write(
            "search",
            epoch=self._trainer.step / self._trainer.steps_per_epoch,
            indicator=self._pruner.indicator,
            shrinking=self.report.shrink_start is not None,
            macs_kept=self.report.achieved["macs"],
        )
        if self.report.reason is not None:  # this search was the last
            self._context.record_choice(self._criterion, self._scores, self._pruner.subnet)
            if self._pruner.attempts:
                self._context.record_attempts(self._pruner.attempts)


def _recalibrate(training: BuiltInTraining, batches: int, model: nn.Module) -> None:
    """Recalibrate the model; the loop does the same with its average, which it knows to be one."""
    if model is training.trainer.model:
        training.recalibrate(model, batches)


def _recalibrated_metric(context: Context, training: BuiltInTraining, batches: int) -> float:
    """The metric at the end as it is read at the removal, with recalibrated statistics; the model keeps its own."""
    own = {name: buffer.clone() for name, buffer in context.model.named_buffers()}
    training.recalibrate(context.model, batches)
    metric = deciding_metric(context, training)
    for name, buffer in context.model.named_buffers():
        buffer.copy_(own[name])
    return metric


def _details(report: OneCycleReport, recalibrated: float) -> dict[str, Any]:
    indicators = [value for _, value in report.curve if value is not None]
    return {
        "why the removal came": report.reason or "it never came",
        "shrink from, share of the run": report.shrink_start,
        "indicator at the removal": indicators[-1] if indicators else None,
        "similarity of the first sub-network to the final one": report.first_to_final,
        "validation at the end, recalibrated": recalibrated,
        "searches": report.searches,
        "indicator by progress": [list(point) for point in report.curve],
    }
