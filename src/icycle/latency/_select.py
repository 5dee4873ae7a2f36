"""Selection under a latency or a peak of memory: by prediction, then measured, and corrected until it is met."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icycle import selection
from icycle.errors import BudgetError, LatencyError
from icycle.latency._batches import batch_of
from icycle.latency._measure import Latency
from icycle.latency._memory import Memory
from icycle.latency._prediction import Prediction
from icycle.selection import Budget, CostFunction
from icycle.structure import Structure, SubNetwork

__all__ = ["Attempt", "Selector", "select"]

_CLOSE = 0.03  # how far the measured latency may be from what was asked for, as a share of that
_ATTEMPTS = 12
_CHECKS = 4  # corrections of the memory

Scores = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Attempt:
    """A sub-network that was measured: milliseconds as predicted (corrected by the one before), as measured, and as
    allowed."""

    predicted: float
    measured: float
    allowed: float
    subnet: SubNetwork

    @property
    def excess(self) -> float:
        """How far above the budget, as a share of it; negative below."""
        return self.measured / self.allowed - 1


class Selector:
    """Chooses sub-networks of one model within one budget, again and again.

    Operations are measured once. Calling the selector takes the time of a search; `measured` also prunes copies of the
    model and measures them, and what it learns corrects later searches. For a budget without a latency or memory both
    are `icycle.selection.select`.

    Args:
        structure, budget: as in `select`.
        model: needed where the budget has a latency, and to check one of memory; the model itself is left alone.
        cache: where times of operations are kept.

    Raises LatencyError (the target is not to be had, or does not tell its memory), StructureError (nothing is
    prunable), BudgetError (a latency without a model, or memory that the structure does not tell without it: at another
    batch size than the traced one, on another target than torch, in a precision that is named).
    """

    def __init__(
        self, structure: Structure, budget: Budget, model: nn.Module | None = None, *, cache: Path | None = None
    ) -> None:
        self.structure = structure
        self.budget = budget
        self.attempts: tuple[Attempt, ...] = ()  # of the last call of `measured`
        self.latency: Latency | None = None
        self.memory: Memory | None = None
        self._corrected: Prediction | None = None  # by what was measured so far
        selection.require_prunable(structure)
        if "latency" in budget.names:
            if model is None:
                budget.costs_in(structure.costs)  # raises, and says how to pass the model
                raise LatencyError("Expected the model whose latency is to be measured, but got none; pass model=.")
            self.latency = Latency(model, structure, budget, cache)
        if "memory" in budget.names and model is not None:
            self.memory = Memory(model, structure, budget)
        elif "memory" in budget.names:
            _require_known(budget, structure)

    @property
    def measures(self) -> bool:
        """Is there anything in the budget that `measured` measures?"""
        return self.latency is not None or self.memory is not None

    def __call__(self, scores: Scores, **settings: Any) -> SubNetwork:
        """The best sub-network by the prediction; `settings` are those of `icycle.select`."""
        settings = self._with_memory(settings)
        if self.latency is None:
            return selection.select(self.structure, scores, self.budget, **settings)
        prediction = self._corrected or self.latency.prediction
        subnet = self._within(scores, settings, prediction, self._allowed)
        if subnet is None:
            self._require_others(scores, settings)
            subnet = self._smallest(scores, settings)
            self._require_reach(prediction(subnet.counts(self.structure)), "predicted", settings)
        return subnet

    def measured(self, scores: Scores, **settings: Any) -> SubNetwork:
        """The best sub-network whose measured latency is within 3 % of the budget, or the closest below it, and whose
        measured memory is at most 3 % above.

        Raises BudgetError where even the smallest sub-network within the limits takes longer, or more; it says how
        much.
        """
        if self.memory is None:
            return self._timed(scores, settings)
        within: dict[int, SubNetwork] = {}  # bytes as measured -> sub-network
        smallest = math.inf
        for _ in range(_CHECKS):
            subnet = self._timed(scores, self._with_memory(settings))
            predicted, taken = self.memory(subnet.counts(self.structure)), self.memory.correct(subnet)
            smallest = min(smallest, taken)
            if taken <= (1 + _CLOSE) * self._bytes:
                within[taken] = subnet
                if predicted <= (1 + _CLOSE) * taken:
                    break
        if not within:
            raise BudgetError(
                f"Expected {self.budget} to be within reach ({self._bytes:,.0f} bytes of memory), but the smallest "
                f"sub-network that was found takes {smallest:,}, measured; ask for at least that."
            )
        return within[max(within)]

    @property
    def _bytes(self) -> float:
        assert self.memory is not None
        return self.budget.allowed("memory", self.memory.dense)

    def _with_memory(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, with memory as the model's runs tell it; a fraction is one of what the whole network took."""
        if self.memory is None:
            return dict(settings)
        return _with_cost(settings, "memory", self.memory, self._bytes)

    def _timed(self, scores: Scores, settings: Mapping[str, Any]) -> SubNetwork:
        """The best whose measured latency is within the budget."""
        if self.latency is None:
            return self(scores, **settings)
        self.attempts = tuple[Attempt, ...]()
        self._require_others(scores, settings)
        prediction = self._corrected or self.latency.prediction
        aim, faster, slower = self._allowed, 0.0, math.inf  # predicted milliseconds: wanted, and known to be off
        factor = 1.0  # what the last network took, as a share of its prediction
        for _ in range(_ATTEMPTS):
            subnet = self._within(scores, settings, prediction, aim)
            if subnet is None and slower < math.inf:
                faster = aim
            else:
                latest = self._attempt(subnet or self._smallest(scores, settings), prediction.scaled(factor))
                if abs(latest.excess) <= _CLOSE:
                    break
                if subnet is None:
                    self._require_reach(latest.measured, "measured", settings)
                    aim = latest.predicted / factor
                factor *= latest.measured / latest.predicted
                faster, slower = (faster, aim) if latest.excess > 0 else (aim, slower)
                aim = aim / (1 + latest.excess)
            if not faster < aim < slower:
                aim = (faster + slower) / 2
        best = self._closest_within() or self._attempt(self._smallest(scores, settings), prediction)
        self._require_reach(best.measured, "measured", settings)
        self._corrected = prediction.scaled(best.measured / prediction(best.subnet.counts(self.structure)))
        return best.subnet

    @property
    def _allowed(self) -> float:
        assert self.latency is not None
        return self.budget.allowed("latency", self.latency.dense)

    def _predicted(
        self, scores: Scores, settings: Mapping[str, Any], prediction: Prediction, allowed: float
    ) -> SubNetwork:
        """The best whose predicted milliseconds are `allowed`; those of the whole network are known."""
        own = _with_cost(settings, "latency", prediction, allowed)
        return selection.select(self.structure, scores, self.budget, **own)

    def _attempt(self, subnet: SubNetwork, prediction: Prediction) -> Attempt:
        assert self.latency is not None
        predicted = prediction(subnet.counts(self.structure))
        attempt = Attempt(predicted, self.latency.measure(subnet), self._allowed, subnet)
        self.attempts = (*self.attempts, attempt)
        return attempt

    def _within(
        self, scores: Scores, settings: Mapping[str, Any], prediction: Prediction, aim: float
    ) -> SubNetwork | None:
        """The best by the prediction; None where even the smallest is predicted to take longer."""
        try:
            return self._predicted(scores, settings, prediction, aim)
        except BudgetError:
            return None

    def _require_others(self, scores: Scores, settings: Mapping[str, Any]) -> None:
        """Raise where the budget's other costs are out of reach, whatever the latency."""
        others = replace(self.budget, latency=None) if len(self.budget.names) > 1 else None
        if others is not None:
            selection.select(self.structure, scores, others, **settings)

    def _closest_within(self) -> Attempt | None:
        """The closest to the budget of those that are not too slow."""
        within = [one for one in self.attempts if one.excess <= _CLOSE]
        return max(within, key=lambda one: one.measured, default=None)

    def _require_reach(self, smallest: float, how: str, settings: Mapping[str, Any]) -> None:
        """Raise where the milliseconds of the smallest sub-network, which are known as `how` says, are too many."""
        if smallest <= (1 + _CLOSE) * self._allowed:
            return
        assert self.latency is not None
        dense = self.latency.dense
        ways = {name: settings[name] for name in ("limit", "round_to", "min_keep") if name in settings}
        raise BudgetError(
            f"Expected latency={self.budget.latency!r} to be within reach ({self._allowed:.4g} of {dense:.3f} ms), "
            f"but the smallest sub-network takes {smallest:.3f} ms, {how} ({100 * smallest / dense:.3g}%); "
            f"{selection.advice(**ways)}."
        )

    def _smallest(self, scores: Scores, settings: Mapping[str, Any]) -> SubNetwork:
        """What is left where as many channels go as the limits allow."""
        own = {
            name: value for name, value in settings.items() if name in ("limit", "limit_rate", "round_to", "min_keep")
        }
        return selection.smallest(self.structure, scores, **own)


def _with_cost(settings: Mapping[str, Any], name: str, cost: CostFunction, allowed: float) -> dict[str, Any]:
    """The settings of `icycle.selection.select`, with a cost that is measured and what it may come to."""
    costs, amounts = settings.get("costs") or {}, settings.get("allowed") or {}
    return {**settings, "costs": {**costs, name: cost}, "allowed": {**amounts, name: allowed}}


def _require_known(budget: Budget, structure: Structure) -> None:
    """Does the structure, without the model, tell the memory that the budget speaks of?"""
    unknown = {
        f"a batch of {budget.batch}": budget.batch not in (None, batch_of(structure)),
        f"target {budget.target!r}": budget.target != "torch",
        f"{budget.precision}": budget.precision is not None,
    }
    asked = [name for name, differs in unknown.items() if differs]
    if asked:
        raise BudgetError(
            f"Expected the model, whose memory with {', '.join(asked)} is measured (the structure saw a batch of "
            f"{batch_of(structure)}, in torch), but got none; pass model=."
        )


def select(
    structure: Structure,
    scores: Scores,
    budget: Budget,
    *,
    model: nn.Module | None = None,
    cache: Path | None = None,
    **settings: Any,
) -> SubNetwork:
    """`icycle.selection.select`, with a budget that may have a latency or memory: then the `model` is measured.

    Each distinct operation is timed at a few widths (once: times are kept in `cache`), the sum is corrected by the
    dense network and some narrower ones measured whole, and the sub-network chosen by this prediction is pruned from a
    copy and measured. Where it is off by more than 3 % of the budget, the search goes on with a corrected prediction.
    Memory follows from the structure; given the model, that is checked in the same way.

    Raises also:
        BudgetError: the latency is out of reach; the message has the smallest that can be had.
        LatencyError: this machine does not have the target, or it does not tell its memory.
    """
    measured = {"latency", "memory"} & set(budget.names)
    if not measured or measured & set(settings.get("costs") or {}):
        return selection.select(structure, scores, budget, **settings)
    return Selector(structure, budget, model, cache=cache).measured(scores, **settings)
