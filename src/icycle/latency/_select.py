"""Selection under a latency: by prediction, then measured, and corrected until the budget is met."""

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
from icycle.latency._measure import Latency
from icycle.latency._prediction import Prediction
from icycle.selection import Budget
from icycle.structure import Structure, SubNetwork

__all__ = ["Attempt", "Selector", "select"]

_CLOSE = 0.03  # how far the measured latency may be from what was asked for, as a share of that
_ATTEMPTS = 12

Scores = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Attempt:
    """A sub-network that was measured: milliseconds as predicted, as measured, and as allowed."""

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
    model and measures them, and what it learns corrects later searches. For a budget without a latency both are
    `icycle.selection.select`.

    Args:
        structure, budget: as in `select`.
        model: needed where the budget has a latency; the model itself is left alone.
        cache: where times of operations are kept.

    Raises LatencyError (the target is not to be had), BudgetError (a latency without a model).
    """

    def __init__(
        self, structure: Structure, budget: Budget, model: nn.Module | None = None, *, cache: Path | None = None
    ) -> None:
        self.structure = structure
        self.budget = budget
        self.attempts: tuple[Attempt, ...] = ()  # of the last call of `measured`
        self.latency: Latency | None = None
        self._corrected: Prediction | None = None  # by what was measured so far
        if "latency" in budget.names:
            if model is None:
                budget.costs_in(structure.costs)  # raises, and says how to pass the model
                raise LatencyError("Expected the model whose latency is to be measured, but got none; pass model=.")
            self.latency = Latency(model, structure, budget, cache)

    def __call__(self, scores: Scores, **settings: Any) -> SubNetwork:
        """The best sub-network by the prediction; `settings` are those of `icycle.select`."""
        if self.latency is None:
            return selection.select(self.structure, scores, self.budget, **settings)
        return self._predicted(scores, settings, self._corrected or self.latency.prediction, self._allowed)

    def measured(self, scores: Scores, **settings: Any) -> SubNetwork:
        """The best sub-network whose measured latency is within 3 % of the budget, or the closest below it.

        Raises BudgetError where even the smallest sub-network within the limits takes longer; it says how long.
        """
        if self.latency is None:
            return self(scores, **settings)
        self.attempts = tuple[Attempt, ...]()
        self._require_others(scores, settings)
        prediction = self._corrected or self.latency.prediction
        aim, faster, slower = self._allowed, 0.0, math.inf  # predicted milliseconds: wanted, and known to be off
        for _ in range(_ATTEMPTS):
            subnet = self._within(scores, settings, prediction, aim)
            if subnet is None and slower < math.inf:
                faster = aim
            else:
                latest = self._attempt(subnet or self._smallest(scores, settings), prediction)
                if abs(latest.excess) <= _CLOSE:
                    break
                if subnet is None:
                    self._require_reach(latest)
                    aim = latest.predicted
                faster, slower = (faster, aim) if latest.excess > 0 else (aim, slower)
                aim = aim / (1 + latest.excess)
            if not faster < aim < slower:
                aim = (faster + slower) / 2
        best = self._closest_within() or self._attempt(self._smallest(scores, settings), prediction)
        self._require_reach(best)
        self._corrected = prediction.scaled(best.measured / best.predicted)
        return best.subnet

    @property
    def _allowed(self) -> float:
        assert self.latency is not None
        return self.budget.allowed("latency", self.latency.dense)

    def _predicted(
        self, scores: Scores, settings: Mapping[str, Any], prediction: Prediction, allowed: float
    ) -> SubNetwork:
        """In milliseconds, as the whole network's latency is known and need not be predicted."""
        budget = replace(self.budget, latency=f"{allowed:.9f} ms")
        costs = {**(settings.get("costs") or {}), "latency": prediction}
        return selection.select(self.structure, scores, budget, **{**settings, "costs": costs})

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

    def _require_reach(self, smallest: Attempt) -> None:
        if smallest.excess <= _CLOSE:
            return
        assert self.latency is not None
        dense = self.latency.dense
        raise BudgetError(
            f"Expected {self.budget} to be within reach ({smallest.allowed:.3f} of {dense:.3f} ms), but the smallest "
            f"sub-network takes {smallest.measured:.3f} ms, measured ({smallest.measured / dense:.1%}); ask for at "
            "least that, or raise limit or limit_rate, or lower round_to or min_keep."
        )

    def _smallest(self, scores: Scores, settings: Mapping[str, Any]) -> SubNetwork:
        """What is left where as many channels go as the limits allow."""
        own = {
            name: value for name, value in settings.items() if name in ("limit", "limit_rate", "round_to", "min_keep")
        }
        return selection.smallest(self.structure, scores, **own)


def select(
    structure: Structure,
    scores: Scores,
    budget: Budget,
    *,
    model: nn.Module | None = None,
    cache: Path | None = None,
    **settings: Any,
) -> SubNetwork:
    """`icycle.selection.select`, with a budget that may have a latency: then the `model` is measured.

    Each distinct operation is timed at a few widths (once: times are kept in `cache`), the sum is corrected by the
    dense network and two narrow ones measured whole, and the sub-network chosen by this prediction is pruned from a
    copy and measured. Where it is off by more than 3 % of the budget, the search goes on with a corrected prediction.

    Raises also:
        BudgetError: the latency is out of reach; the message has the smallest that can be had.
        LatencyError: this machine does not have the target.
    """
    if "latency" not in budget.names or "latency" in (settings.get("costs") or {}):
        return selection.select(structure, scores, budget, **settings)
    return Selector(structure, budget, model, cache=cache).measured(scores, **settings)
