"""Artificial bee colony pruning as a recipe's method.

1. Start from a trained network, and rank the channels of each group                                `_search`
2. Search for the kept counts within the budget with which it is best, as it is after compensation
   and recalibration, on validation data                                                            `Colony`, `Shapes`
3. Remove the rest                                                                                  `_remove`
4. Fine-tune for a few epochs, at a rate that decays                                                `_fine_tune`

Source: "Channel Pruning via Automatic Structure Search" (ABCPruner), arXiv 2001.08565, where every candidate is
fine-tuned for two epochs and judged on the test set.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from icycle.engine import trace
from icycle.methods._built_in import BuiltInTraining
from icycle.methods._registry import Context, Effort, Method, MethodResult, register
from icycle.methods._removal import RemovalLog, RemovalSettings, deciding_metric, refitting
from icycle.methods._remove import remove
from icycle.methods._settings import Checked, Count, Positive
from icycle.methods._training import FineTune
from icycle.methods.abc._colony import Colony
from icycle.methods.abc._memory import Memory
from icycle.methods.abc._shapes import Shapes
from icycle.methods.ice import Curve
from icycle.structure import Structure, SubNetwork
from icycle.training import seconds_between

__all__ = ["Abc"]


@register
class Abc(RemovalSettings, Method):
    """Search for the number of channels that each group keeps, by trial; remove the others at once; fine-tune.

    `sources`, `cycles`, `changes` and `patience` are those of the colony. With `share`, a folder, several runs share
    what they try; each has its own number as `worker`, and ends with the best shape that is known by then.
    """

    name: Literal["abc"] = "abc"
    starts_trained: ClassVar[bool] = True
    has_teacher: ClassVar[bool] = True
    compensate: bool = True
    sources: Annotated[int, Field(ge=2)] = 8
    cycles: Annotated[int, Field(ge=0)] = 5
    changes: Count = 2
    patience: Count = 5
    share: Path | None = None
    worker: Annotated[int, Field(ge=0)] = 0
    curve: Annotated[Curve, Checked] = Curve()
    final_epochs: Annotated[int, Field(ge=0)] = 4
    final_factor: Positive = 2.0

    def prepare(self, context: Context) -> None:
        """Train the network, unless it comes trained; a budget out of reach shows before."""
        structure = trace(context.model, context.example_inputs)
        self.select(context.model, structure, self.scores(context, BuiltInTraining(context), structure))
        if not context.trained:
            context.fit(context.trainer())

    def run(self, context: Context) -> MethodResult:
        training = BuiltInTraining(context)
        with context.recorder.clock.stage("search"):
            structure = trace(context.model, context.example_inputs)
            memory = Memory(self._folder(context, structure), self.worker)
            subnet, details = self._search(context, training, structure, memory)
        training.trainer.keep_teacher(trained=True)
        log = RemovalLog(context, training, self.calibration_batches)
        left = self._remove(context, training, structure, subnet, log)
        accuracy = self._fine_tune(context, training, left.params() / structure.params())
        effort = Effort(float(self.final_epochs), memory.tried * context.data.validation.examples, 1)
        return MethodResult(accuracy, tuple(log.removals), details, effort)

    def _search(
        self, context: Context, training: BuiltInTraining, structure: Structure, memory: Memory
    ) -> tuple[SubNetwork, dict[str, Any]]:
        """The best sub-network that was found, and what came of the search."""
        began = context.recorder.clock.seconds()
        scores = self.scores(context, training, structure)
        shapes = Shapes(self, context, structure, scores, memory)
        uniform, threshold = shapes.scaled(np.ones(len(shapes.sizes))), shapes.threshold()
        colony = Colony(
            shapes,
            np.random.default_rng([context.seed, self.worker]),
            start=(uniform, threshold),
            size=self.sources,
            changes=self.changes,
            patience=self.patience,
        )
        for number in range(1, self.cycles + 1):
            colony.cycle()
            best = context.task.value(colony.best.nectar)
            now = context.recorder.clock.seconds()
            seconds, began = seconds_between(began, now), now
            context.recorder.write(
                "cycle", number=number, of=self.cycles, best=best, tried=memory.tried, seconds=seconds
            )
        counts, points = memory.best()
        details = {
            "shapes tried": memory.tried,
            "validation before the fine-tune": context.task.value(points),
            "of the uniform shape": context.task.value(shapes.nectar(uniform)),
            "of the shape by one threshold": context.task.value(shapes.nectar(threshold)),
        }
        subnet = shapes.measured(counts)
        context.record_choice(self.criterion, scores, subnet)
        return subnet, details

    def _folder(self, context: Context, structure: Structure) -> Path | None:
        """For this network, these data and this kind of shapes alone; in the run's own folder unless one is shared."""
        run = None if context.checkpoint is None else context.checkpoint.with_name("shapes")
        place = self.share or run
        if place is None:
            return None
        digest = hashlib.sha256(structure.fingerprint.encode())
        for tensor in context.model.state_dict().values():
            digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
        digest.update(self.model_dump_json(include=set(RemovalSettings.model_fields)).encode())
        digest.update(f"{context.seed} {context.data.validation.examples}".encode())
        return place / digest.hexdigest()[:24]

    def _remove(
        self,
        context: Context,
        training: BuiltInTraining,
        structure: Structure,
        subnet: SubNetwork,
        log: RemovalLog,
    ) -> Structure:
        """What is left; where the budget is everything nothing goes."""
        if subnet == SubNetwork.full(structure):
            return structure
        log.before()
        with context.recorder.clock.stage("search"):
            refit = refitting(self, context, training)
            left = remove(context.model, structure, subnet, optimizer=training.optimizer, refit=refit)
        training.recalibrate(context.model, self.calibration_batches)
        log.after(context.epochs_trained, structure.macs(), left.macs())
        return left

    def _fine_tune(self, context: Context, training: BuiltInTraining, remaining: float) -> float:
        """From twice the curve's rate to zero; the metric that decides, at the end."""
        if self.final_epochs:
            curve = self.curve.after(context.train.optimizer.learning_rate)
            rate, epochs = self.final_factor * curve(remaining), float(self.final_epochs)
            with context.recorder.clock.stage("fine-tuning"):
                training.train_for(context.model, FineTune(epochs, rate, 0.0, "final", 1, epochs))
        return deciding_metric(context, training)
