"""Removals at stated moments of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from icycle.engine import trace
from icycle.latency import Latency, Memory, Selector
from icycle.methods._built_in import BuiltInTraining
from icycle.methods._registry import Context, MethodResult, Removal
from icycle.methods._removal import RemovalLog, RemovalSettings, refitting
from icycle.methods._remove import remove
from icycle.saliency import Scores
from icycle.selection import Budget, CostFunction, select
from icycle.structure import Structure, SubNetwork
from icycle.tracing import copy_of
from icycle.training import Trainer

__all__ = ["Moment", "RemoveAtStart", "ScheduledRemoval", "train_with_removals"]

Moment = tuple[float, float]  # progress of the run, and the share of what has to go that is gone then; both 0..1


def train_with_removals(settings: RemovalSettings, context: Context, moments: Sequence[Moment]) -> MethodResult:
    """Train by the context's settings, and remove on the way."""
    training = BuiltInTraining(context)
    hooks = ScheduledRemoval(settings, context, training, moments)
    accuracy = context.fit(training.trainer, hooks)
    return MethodResult(accuracy, tuple(hooks.removals))


class ScheduledRemoval:
    """Hooks that remove channels at `moments`, which grow in both numbers, the last share being 1.

    A latency is predicted for all removals but the last, whose sub-network is measured.

    Raises:
        BudgetError, StructureError: the budget is out of reach, or nothing is prunable; before any training.
        LatencyError: the budget's target is not on this machine.
    """

    def __init__(
        self, settings: RemovalSettings, context: Context, training: BuiltInTraining, moments: Sequence[Moment]
    ) -> None:
        self._settings = settings
        self._context = context
        self._training = training
        self._moments = tuple(moments)
        self._done = 0
        self._log = RemovalLog(context, training, settings.calibration_batches)
        with context.recorder.clock.stage("search"):
            self._structure = trace(context.model, context.example_inputs)
            self._dense = self._structure
            self._costs = _Costs(settings.budget.build(), copy_of(context.model), self._dense)
            settings.select(context.model, self._structure, settings.scores(context, training, self._structure))

    @property
    def removals(self) -> list[Removal]:
        return self._log.removals

    @property
    def settled(self) -> bool:
        return self._done == len(self._moments)

    def start_epoch(self, epoch: int) -> None:
        self._remove_when_due()

    def after_step(self) -> None:
        self._remove_when_due()

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done, "removals": [asdict(removal) for removal in self.removals]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._done = state["done"]
        self._log.removals = [Removal(**removal) for removal in state["removals"]]
        self._structure = trace(self._context.model, self._context.example_inputs)

    def _remove_when_due(self) -> None:
        progress = self._training.trainer.step / self._training.trainer.steps
        due = sum(moment <= progress + 1e-9 for moment, _ in self._moments)
        if due > self._done:
            self._done = due
            self._remove(self._moments[due - 1][1])

    def _remove(self, share: float) -> None:
        """Go on until the share of what has to go is gone."""
        structure, model = self._structure, self._context.model
        scores = self._settings.scores(self._context, self._training, structure)
        subnet = self._select(share, scores)
        if subnet == SubNetwork.full(structure):
            return
        self._context.record_choice(self._settings.criterion, scores, subnet)
        self._log.before()
        refit = refitting(self._settings, self._context, self._training)
        trainer = self._training.trainer
        self._structure = remove(
            model, structure, subnet, optimizer=trainer.optimizer, averaged=trainer.averaged, refit=refit
        )
        self._training.recalibrate(model, self._settings.calibration_batches)
        self._log.after(trainer.step / trainer.steps_per_epoch, structure.macs(), self._structure.macs())

    def _select(self, share: float, scores: Scores) -> SubNetwork:
        """What stays once the share of what has to go is gone; latency and memory are measured at the last."""
        last = share == 1
        whole = self._costs.measured_again() if last else self._costs
        costs = whole.at(self._structure, self._context.model)
        budget = whole.budget(costs, self._structure, share)
        if budget is None:
            return SubNetwork.full(self._structure)
        settings: dict[str, Any] = {
            "round_to": self._settings.round_to,
            "limit": 1.0,  # that of the dense network stands in the scores
            "limit_rate": math.inf,
            "cost_factor": self._settings.cost_factor,
        }
        protected = self._protected(scores)
        if not last:
            return select(self._structure, protected, budget, costs=costs, **settings)
        selector = Selector(self._structure, budget, self._context.model)
        subnet = selector.measured(protected, **settings)
        if selector.attempts:
            self._context.record_attempts(selector.attempts)
        return subnet

    def _protected(self, scores: Scores) -> Scores:
        """The scores, with +inf for the best channels that the limit on the dense network's groups keeps."""
        protected = {}
        for name, values in scores.items():
            size = self._dense[name].size
            share = self._settings.limit * (1 - math.exp(-self._settings.limit_rate * size))
            stay = min(max(size - round(share * size), 1), len(values))
            protected[name] = values.clone()
            protected[name][torch.argsort(values, descending=True, stable=True)[:stay]] = math.inf
        return protected


class RemoveAtStart:
    """Hooks that take `subnet` out of the context's model before its first step."""

    def __init__(self, context: Context, trainer: Trainer, structure: Structure, subnet: SubNetwork) -> None:
        self._model = context.model
        self._trainer = trainer
        self._structure = structure
        self._subnet = subnet

    def start_epoch(self, epoch: int) -> None:
        whole = sum(parameter.numel() for parameter in self._model.parameters()) == self._structure.params()
        if epoch == 0 and whole and self._subnet != SubNetwork.full(self._structure):
            remove(self._model, self._structure, self._subnet, optimizer=self._trainer.optimizer)
            self._trainer.lay_out()

    def after_step(self) -> None:
        return


class _Costs:
    """What the budget names: how much of it the dense network has, and how much may be left at a moment.

    `model` is a dense one that stays so.
    """

    def __init__(self, budget: Budget, model: torch.nn.Module, dense: Structure) -> None:
        self._budget = budget
        self._model = model
        self._dense = dense
        self._whole: dict[str, float] = {name: dense.cost(name) for name in budget.names if name in dense.costs}
        self._latency = Latency(model, dense, budget) if "latency" in budget.names else None
        if self._latency is not None:
            self._whole["latency"] = self._latency.dense
        if "memory" in budget.names:
            self._whole["memory"] = Memory(model, dense, budget).dense

    def measured_again(self) -> _Costs:
        """The same, with latencies as they are now: a machine may be busier than it was."""
        return self if self._latency is None else _Costs(self._budget, self._model, self._dense)

    def at(self, structure: Structure, model: torch.nn.Module) -> dict[str, CostFunction]:
        """The budget's costs as functions of the kept counts of a network of this structure: a latency as predicted for
        the dense network's sub-networks, memory as a run of `model` takes it."""
        costs: dict[str, CostFunction] = {name: cost for name, cost in structure.costs.items() if name in self._whole}
        if self._latency is not None:
            costs["latency"] = _OfDense(self._latency, self._dense, structure)
        if "memory" in self._whole:
            costs["memory"] = Memory(model, structure, self._budget)
        return costs

    def budget(self, costs: Mapping[str, CostFunction], structure: Structure, share: float) -> Budget | None:
        """What a network of this structure still has to come down to once the share of what has to go is gone; in
        absolute numbers, since the networks are ever smaller ones. None: it is there already."""
        counts = SubNetwork.full(structure).counts(structure)
        left: dict[str, Any] = dict.fromkeys(self._whole)
        for name, whole in self._whole.items():
            wanted = self._budget.allowed(name, whole)
            allowed = whole - share * (whole - wanted)
            if (name == "latency" and share == 1) or costs[name](counts) > allowed:
                left[name] = _said(name, allowed)
        return replace(self._budget, **left) if any(left.values()) else None


def _said(name: str, amount: float) -> int | str:
    """An amount as a budget takes it."""
    units = {"latency": f"{amount:.9f} ms", "memory": f"{amount:.0f} B"}
    return units.get(name) or max(round(amount), 2)


class _OfDense:
    """A latency of the dense network's kept counts as one of the counts of a network pruned from it, which may have
    fewer prunable groups: one that is a single channel wide is none any more. It is predicted, which takes measurements
    where it is asked for the first time."""

    def __init__(self, latency: Latency, dense: Structure, structure: Structure) -> None:
        self._latency = latency
        sizes = {group.name: group.size for group in structure.groups}
        self._rest = np.array([sizes.get(group.name, 1) for group in dense.prunable], dtype=np.int64)
        numbers = {group.name: number for number, group in enumerate(dense.prunable)}
        self._numbers = np.array([numbers[group.name] for group in structure.prunable], dtype=np.int64)

    def __call__(self, counts: np.ndarray) -> float:
        return self._latency.prediction(self._of_dense(counts))

    def gradient(self, counts: np.ndarray) -> np.ndarray:
        return self._latency.prediction.gradient(self._of_dense(counts))[self._numbers]

    def sweep(self, counts: np.ndarray, group: int, values: np.ndarray) -> np.ndarray:
        return self._latency.prediction.sweep(self._of_dense(counts), int(self._numbers[group]), values)

    def _of_dense(self, counts: np.ndarray) -> np.ndarray:
        whole = self._rest.copy()
        whole[self._numbers] = counts
        return whole
