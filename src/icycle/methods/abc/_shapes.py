"""The field of a network: its shapes within a budget, and what a network of each is worth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from icycle.latency import Selector
from icycle.methods._built_in import BuiltInTraining
from icycle.methods._registry import Context
from icycle.methods._removal import RemovalSettings, refitting
from icycle.methods._remove import remove
from icycle.methods.abc._colony import Counts
from icycle.methods.abc._memory import Memory
from icycle.saliency import Scores
from icycle.structure import Structure, SubNetwork
from icycle.training import from_first, on_first

__all__ = ["Shapes"]


class Shapes:
    """Shapes of `context.model`, each with the channels that score best; the model itself is left alone.

    Of processes that train together the first decides, as each may have measured other latencies.

    Args:
        memory: what each shape that was tried is worth.
    """

    def __init__(
        self, settings: RemovalSettings, context: Context, structure: Structure, scores: Scores, memory: Memory
    ) -> None:
        self._settings = settings
        self._context = context
        self._structure = structure
        self._scores = scores
        self._memory = memory
        self._selector = Selector(structure, settings.budget.build(), context.model)
        self._ranks = {name: _ranks(values) for name, values in scores.items()}
        self.sizes = tuple(group.size for group in structure.prunable)

    def scaled(self, shares: np.ndarray) -> Counts:
        """Kept counts in the ratios of `shares`, which are scaled alike until the budget is met."""
        return on_first(lambda: self._counts(self._within(self._selector, shares)))

    def threshold(self) -> Counts:
        """What one threshold over all scores keeps."""
        factor = self._settings.cost_factor
        return on_first(lambda: self._counts(self._selector(self._scores, **self._limits, cost_factor=factor)))

    def subnet(self, counts: Counts) -> SubNetwork:
        """The best channels of every group; of equals the first ones stay."""
        numbers = zip(self._structure.prunable, counts, strict=True)
        return SubNetwork({group.name: self._ranks[group.name] < count for group, count in numbers})

    def measured(self, counts: Counts) -> SubNetwork:
        """The same, corrected where a measurement of latency or memory shows that the budget is not met."""
        if not self._selector.measures:
            return self.subnet(counts)
        shares = np.array(counts) / np.array(self.sizes)
        subnet = on_first(lambda: self._within(self._selector.measured, shares))
        if self._selector.attempts:
            self._context.record_attempts(self._selector.attempts)
        return subnet

    def nectar(self, counts: Counts) -> float:
        """The metric that decides, in points, on the validation split: of a copy that has lost the others' channels,
        after compensation and recalibration, and without any training."""
        known = self._memory.recall(counts)
        if known is not None:
            return known
        points = from_first(self._tried(self.subnet(counts)))
        self._memory.keep(counts, points)
        return points

    def _tried(self, subnet: SubNetwork) -> float:
        untaught = self._context.train.model_copy(update={"distill": None})
        context = replace(self._context, model=copy.deepcopy(self._context.model), train=untaught, teacher=None)
        training = BuiltInTraining(context)
        with torch.random.fork_rng():
            torch.manual_seed(context.seed)  # the same batches for every shape
            if subnet != SubNetwork.full(self._structure):
                refit = refitting(self._settings, context, training)
                remove(context.model, self._structure, subnet, refit=refit)
            training.recalibrate(context.model, self._settings.calibration_batches)
            return training.evaluate(context.model)

    def _within(self, select: Callable[..., SubNetwork], shares: np.ndarray) -> SubNetwork:
        """One threshold on (rank + 1/2) / (share * size) keeps the same part of every share: its bisection on the exact
        cost is the scaling."""
        scores = {}
        for group, share in zip(self._structure.prunable, np.maximum(shares, 1e-3), strict=True):
            places = (self._ranks[group.name].double() + 0.5) / (share * group.size)
            scores[group.name] = torch.where(self._scores[group.name].isposinf(), torch.inf, -places)
        return select(scores, **self._limits, cost_factor=False)

    @property
    def _limits(self) -> dict[str, float]:
        settings = self._settings
        return {"round_to": settings.round_to, "limit": settings.limit, "limit_rate": settings.limit_rate}

    def _counts(self, subnet: SubNetwork) -> Counts:
        return tuple(int(count) for count in subnet.counts(self._structure))


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    """(size,): 0 for the best, 1 for the next; of equals the first comes first."""
    ranks = torch.empty(len(scores), dtype=torch.int64)
    ranks[torch.argsort(scores.cpu(), descending=True, stable=True)] = torch.arange(len(scores))
    return ranks
