"""ICE: iterative pruning of a trained network that fine-tunes only when it must.

1. Measure the dense network; plan the steps                                                       `begin`
2. Remove the least important channels of all steps at once, refitting what reads them, and        `_stride`
   estimate the batch-norm statistics anew                                                        `_recalibrate`
3. Where fine-tunes in between are asked for: would the validation accuracy fall too far below     trigger
   the dense network's? Then, and only then, take but the next step, fine-tune, at a learning     `_fine_tune_step`
   rate that follows what remains of the weights, and look again
4. In all fine-tunes the first layers, a share of them, may be frozen                              `_choose_frozen`
5. At the end fine-tune at twice that rate, which decays, for as long as it takes to come close    `_finish`
   to the dense network again

Source: "ICE-Pruning: An Iterative Cost-Efficient Pruning Pipeline for Deep Neural Networks", arXiv 2505.07411. Where
its released code and its idea part, this follows the idea: decisions read a validation split, never the test set, and
only as much of it as they need; batch norm is recalibrated before they do; frozen layers end the backward pass; every
second counts. Its numbers are kept as the method `ice-published`, to compare with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from typing import Any, Literal

import torch

from icycle.compensation import compensate
from icycle.engine import trace
from icycle.errors import TrainingError
from icycle.latency import Attempt
from icycle.methods._remove import Declined, remove
from icycle.methods._training import FineTune, Training
from icycle.methods.ice._final import FinalFineTune
from icycle.methods.ice._freeze import Frozen, FrozenLayers, first_layers
from icycle.methods.ice._layers import Layer, layers_of
from icycle.methods.ice._published import least_moved, movement, weights_of
from icycle.methods.ice._result import IceResult, IceStep
from icycle.methods.ice._settings import IceSettings
from icycle.methods.ice._steps import Scores, Step, channels_to_keep, together
from icycle.methods.ice._trigger import (
    AlwaysFineTune,
    Answers,
    Decision,
    ExactTrigger,
    NeverFineTune,
    SequentialTrigger,
    Trigger,
)
from icycle.saliency import check, score
from icycle.structure import Structure, SubNetwork, after_removal
from icycle.training import StageClock, from_first, seconds_between

__all__ = ["IceRun"]


class IceRun:
    """One run, ready to be called once `begin` has shown whatever can be wrong, before any training.

    What it has done by the end of a part (`begin`, the choice of frozen layers, a step, an epoch of the final
    fine-tune) is its state; with that, on the model that was left, another run goes on from there.

    Args:
        clock: counts the run's seconds.
        on_attempts: called with the sub-networks that were measured for a latency.
        on_choice: called after each removal with the scores and the sub-network that they chose.
        on_step: called after each step, or after steps that were taken together.
        on_part: called after each part.

    Raises: as `icycle.ice`.
    """

    def __init__(
        self,
        settings: IceSettings,
        model: torch.nn.Module,
        example_inputs: Any,
        training: Training,
        *,
        seed: int = 0,
        clock: StageClock | None = None,
        on_attempts: Callable[[Sequence[Attempt]], object] | None = None,
        on_choice: Callable[[Scores, SubNetwork], object] = lambda scores, subnet: None,
        on_step: Callable[[IceStep], object] = lambda step: None,
        on_part: Callable[[], object] = lambda: None,
    ) -> None:
        if settings.compensate and training.batches is None:
            raise TrainingError(
                "Expected training batches to compensate on, but got none; pass loader=, calibration= as batches, or "
                "compensate=False."
            )
        check(settings.scored_by, loader=training.batches, loss=training.loss)
        self.settings = settings
        self.model = model
        self._example_inputs = example_inputs
        self._training = training
        self._seed = seed
        self._on_attempts = on_attempts
        self._on_choice = on_choice
        self._on_step = on_step
        self._on_part = on_part
        self._clock = clock or StageClock()
        self._before = self._clock.seconds()
        with self._clock.stage("search"):
            self.structure = trace(model, example_inputs)
        self.steps: tuple[Step, ...] = ()
        self._dense_scores: Scores | None = None  # by which the steps were planned, and the first one chooses
        self.result = IceResult(model, self.structure, self.structure.macs(), self.structure.params())
        self._trigger: Trigger = NeverFineTune()
        self._frozen: FrozenLayers | None = None  # not chosen yet
        self._final: FinalFineTune | None = None

    def begin(self) -> None:
        """Plan the steps, and measure the dense network."""
        with self._clock.stage("search"):
            self._dense_scores = self._scores(0, self.structure)
            self.steps = self.settings.plan(self.structure, self._dense_scores, self.model, self._on_attempts)
        with self._clock.stage("evaluation"):
            self.result.dense_accuracy = self._evaluate()
            self._trigger = self._make_trigger(self.result.dense_accuracy)
        self._on_part()

    def __call__(self) -> IceResult:
        """Do what is not done yet."""
        if not self.steps:
            self.begin()
        self._step_began = self._clock.seconds()
        if self._frozen is None:
            self._frozen = self._choose_frozen()
            if self._frozen.names:
                self._on_part()
        while self.result.steps_done < len(self.steps):
            step, number, declined = self._stride(self.result.steps_done)
            self._recalibrate()
            decision = self._due(self._decide(), declined)
            if decision.fire and number == len(self.steps):
                self.result.accuracy_removed = self._exact(decision)
            self._record(step, number, decision, *self._fine_tune_step(number, decision))
            self._on_part()
        self._finish()
        self.result.seconds = seconds_between(self._before, self._clock.seconds())
        return self.result

    def _make_trigger(self, dense: float, answers: Answers | None = None) -> Trigger:
        """The trigger for a dense network of this accuracy and these answers: the model's own, unless given."""
        settings, correct = self.settings, self._training.correct_per_batch
        if settings.epochs == 0:
            return NeverFineTune()
        if settings.threshold is None:
            return AlwaysFineTune()
        if correct is None or settings.confidence is None:
            return ExactTrigger(self._training.evaluate, dense, settings.threshold, self._training.validation_examples)
        answers = answers or Answers.of(self.model, correct)
        return SequentialTrigger(answers, correct, settings.threshold, settings.confidence)

    def _scores(self, number: int, structure: Structure) -> Scores:
        settings = self.settings
        return score(
            settings.scored_by,
            self.model,
            structure,
            loader=self._training.batches,
            loss=self._training.loss,
            batches=settings.criterion_batches,
            seed=self._seed + number,
        )

    def _stride(self, done: int) -> tuple[Step, int, Decision | None]:
        """Remove all that the steps after the first `done` remove, or, where a fine-tune is due before that, the next
        of them; returns what went, how many steps are done by then, and the decision against the rest, if there is one.

        What is removed at once is refitted at once, to what the network puts out that is whole still. So one removal is
        better than two, unless more is lost than can be refitted.
        """
        left = self.steps[done:]
        count = len(left) if self.settings.at_once else 1
        step = together(left[:count])
        looks = count > 1 and self.settings.epochs > 0
        decisions: list[Decision] = []

        def passes() -> bool:
            self._recalibrate()  # what is to go is there still, but nothing reads it
            decisions.append(self._decide())
            return not decisions[-1].fire

        with self._clock.stage("search"):
            scores = self._due_scores(step, done)
        try:
            self._remove(step, scores, accept=passes if looks else lambda: True)
            return step, done + count, None
        except Declined:
            self._remove(left[0], scores)
            return left[0], done + 1, decisions[-1]

    def _due_scores(self, step: Step, done: int) -> Scores:
        """Those of the step's groups by now; before the first step nothing has changed since the plan."""
        if done == 0:
            scores = self._dense_scores or self._scores(0, self.structure)
            return {name: scores[name] for name in step.counts}
        due = replace(self.structure, groups=tuple(self.structure[name] for name in step.counts))
        return self._scores(done, due)

    def _remove(self, step: Step, scores: Scores, accept: Callable[[], bool] = lambda: True) -> None:
        """Take the step's channels out, of the optimizer's state too, unless `accept` declines the refitted network."""
        with self._clock.stage("search"):
            subnet = channels_to_keep(self.structure, scores, step)
            optimizer, refit = self._training.optimizer, self._refit if self.settings.compensate else None
            self.structure = remove(self.model, self.structure, subnet, optimizer=optimizer, refit=refit, accept=accept)
            chosen = SubNetwork({name: subnet.keep[name] for name in step.counts})
            self._on_choice({name: scores[name] for name in step.counts}, chosen)

    def _decide(self) -> Decision:
        with self._clock.stage("evaluation"):
            decision = from_first(self._trigger(self.model))  # the others may have read other data
        self.result.examples_read += decision.examples
        return decision

    def _exact(self, decision: Decision) -> float:
        """The accuracy that the decision read, if that was of the whole split."""
        if decision.accuracy is not None and decision.share == 1:
            return decision.accuracy
        with self._clock.stage("evaluation"):
            return self._evaluate()

    def _due(self, decision: Decision, declined: Decision | None) -> Decision:
        """Where all may go at once a fine-tune comes before what would cost too much, and not after: after the last
        removal there is the final one."""
        if declined is not None:
            return replace(decision, fire=True, ahead=declined.drop)
        final = self.settings.at_once and self.settings.final_epochs > 0
        return replace(decision, fire=decision.fire and not final)

    def _refit(self, model: torch.nn.Module, structure: Structure, subnet: SubNetwork) -> None:
        with self._clock.stage("compensation"):
            batches = self._training.batches
            assert batches is not None
            compensate(model, structure, subnet, batches, max_batches=self.settings.calibration_batches)

    def _recalibrate(self) -> None:
        if self.settings.calibrate:
            with self._clock.stage("recalibration"):
                self._training.recalibrate(self.model, self.settings.calibration_batches)

    def _evaluate(self) -> float:
        """The accuracy of the model as it is; rank 0's, on every rank."""
        return from_first(self._training.evaluate(self.model))

    @property
    def _remaining(self) -> float:
        """The share of the weights that remain, 0..1."""
        return self.structure.params() / self.result.params_before

    def _fine_tune_step(self, number: int, decision: Decision) -> tuple[float, float | None]:
        """The epochs trained and the rate they began at, where a fine-tune is due; else nothing."""
        settings = self.settings
        if not decision.fire:
            return 0.0, None
        epochs, rate = settings.epochs * settings.data_share, settings.curve(self._remaining)
        self._request_training("step", number, epochs, rate, settings.decay)
        self.result.fine_tunes += 1
        return epochs, rate

    def _choose_frozen(self) -> FrozenLayers:
        """The layers that train in no fine-tune, chosen on the dense network."""
        settings = self.settings
        if settings.freeze == 0:
            return FrozenLayers((), self._example_inputs)
        with self._clock.stage("probing"):
            published, layers = settings.freezing == "published", layers_of(self.model, self._example_inputs)
            chosen = self._probed(layers) if published else first_layers(layers, settings.freeze)
        names = from_first([layer.name for layer in chosen])
        return FrozenLayers(names, self._example_inputs)

    def _probed(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """The layers that move least where a copy of the network is trained."""
        settings, probe = self.settings, copy.deepcopy(self.model)
        before = weights_of(probe, layers)
        epochs, rate = settings.epochs * settings.data_share, settings.curve.highest
        end = 0.0 if settings.decay else rate
        self._training.train_for(probe, FineTune(epochs, rate, end, "probe", 0, epochs, None, settings.data_share))
        self._count(epochs)
        return least_moved(layers, movement(before, weights_of(probe, layers)), settings.freeze)

    def _request_training(
        self,
        kind: Literal["step", "final"],
        number: int,
        epochs: float,
        rate: float,
        decay: bool,
        course: tuple[float, float] = (0.0, 1.0),
        epochs_left: float | None = None,
    ) -> None:
        """Have the network trained; `course` is the part (0..1) of a decaying rate's way that this request covers."""
        start, end = ((1 - progress) * rate for progress in course) if decay else (rate, rate)
        left = epochs if epochs_left is None else epochs_left
        share = 1.0 if kind == "final" else self.settings.data_share
        with self._clock.stage("fine-tuning"):
            assert self._frozen is not None
            frozen = self._frozen.within(self.model, self.structure)
            with frozen.applied(self.model) if frozen else nullcontext():
                request = FineTune(epochs, start, end, kind, number, left, frozen, share)
                self._training.train_for(self.model, request)
        self._count(epochs, frozen)

    def _count(self, epochs: float, frozen: Frozen | None = None) -> None:
        self.result.epochs += epochs
        self.result.epoch_equivalents += epochs * (1 - (frozen.saved if frozen else 0.0))
        self.result.frozen = frozen

    def _record(
        self, step: Step, number: int, decision: Decision, fine_tuned: float, learning_rate: float | None
    ) -> None:
        kept = dict(step.counts)
        macs, weights = self.structure.macs(), self._remaining
        now = self._clock.seconds()
        seconds = {stage: spent for stage, spent in seconds_between(self._step_began, now).items() if spent > 0}
        self._step_began = now
        done = IceStep(number, kept, macs, weights, decision, fine_tuned, learning_rate, seconds)
        self.result.steps.append(done)
        self._on_step(done)

    def _finish(self) -> None:
        """The final fine-tune, epoch by epoch, so that it can stop early."""
        settings, result = self.settings, self.result
        result.structure = self.structure
        if self._final is None:
            with self._clock.stage("evaluation"):
                result.accuracy = self._evaluate()
            if settings.final_epochs == 0:
                return
            result.accuracy_before_final = result.accuracy
            self._final = self._begun(result.accuracy)
        final = self._final
        rate = settings.final_factor * settings.curve(self._remaining)
        while not final.over:
            (start, end), epoch, judges = final.part, final.epochs, final.judges
            course = ((epoch - start) / (end - start), (epoch + 1 - start) / (end - start))
            self._request_training("final", len(self.steps), 1.0, rate, settings.final_decay, course, end - epoch)
            if judges:
                with self._clock.stage("evaluation"):
                    result.accuracy = self._evaluate()
            final.epoch_done(result.accuracy)
            self._on_part()
        result.ended = final.over
        result.accuracy = final.restored(result.accuracy)

    def _begun(self, accuracy: float) -> FinalFineTune:
        settings, dense = self.settings, self.result.dense_accuracy
        enough = None if settings.drop is None else dense - settings.drop
        return FinalFineTune(settings.final_epochs, settings.patience, enough, self.model, accuracy)

    def state_dict(self) -> dict[str, Any]:
        """All that is not in the model."""
        result, frozen = self.result, self.result.frozen
        return {
            "plan": [dict(step.counts) for step in self.steps],
            "counted": {name: getattr(result, name) for name in _counted()},
            "steps": [asdict(step) for step in result.steps],
            "frozen": None if frozen is None else frozen.description(),
            "frozen names": None if self._frozen is None else list(self._frozen.names),
            "seconds before": self._before,
            **(self._trigger.dense.state_dict() if isinstance(self._trigger, SequentialTrigger) else {}),
            **({} if self._final is None else self._final.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be where the run with this state was. The model is the one that it left, and was dense until now."""
        result = self.result
        self.steps = tuple(Step(counts) for counts in state["plan"])
        for name, value in state["counted"].items():
            setattr(result, name, value)
        result.steps = [IceStep(**{**step, "decision": Decision(**step["decision"])}) for step in state["steps"]]
        for done in result.steps:
            self.structure = after_removal(self.structure, SubNetwork.first(self.structure, done.kept))
        if state["frozen"] is not None:
            result.frozen = Frozen.described(self.model, self._example_inputs, state["frozen"])
        if state["frozen names"] is not None:
            self._frozen = FrozenLayers(state["frozen names"], self._example_inputs)
        self._before = state["seconds before"]
        self._trigger = self._make_trigger(result.dense_accuracy, Answers.saved(state))
        if "final" in state:
            self._final = self._begun(0.0)
            self._final.load_state_dict(state)


def _counted() -> list[str]:
    """What a result has counted and measured: all of it that is plain numbers."""
    others = {"model", "structure", "steps", "frozen", "seconds"}
    return [each.name for each in fields(IceResult) if each.name not in others]
