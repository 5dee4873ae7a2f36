"""One-cycle structured pruning: pre-training, pruning and fine-tuning inside one ordinary training run.

1. Train from scratch, with the ordinary optimizer and learning-rate schedule.
2. Again and again, score every channel and choose the sub-network that meets the budget       `_search`
3. Compare it with the one chosen a while before: has the search become stable?                 `Stability`
4. Until it has, the weights of the channels that would go shrink a little after every step     `Shrink`
5. Then, or at the deadline, these channels are removed, and training goes on to its end        `_remove`

Source: "One-Cycle Structured Pruning via Stability-Driven Subnetwork Search", arXiv 2501.13439. Where its released
code and its idea part, this follows the idea: the shrink acts on the weights and not through a loss term without a
gradient, the search reads exact costs and copies no model, times are fractions of the run, and the optimizer lives
through the removal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from icycle.engine import trace
from icycle.errors import TrainingError
from icycle.methods._distributed import broadcast_from_rank0, flatten, require_same_everywhere, unflatten
from icycle.methods._run_clock import RunClock, unwrapped
from icycle.methods._settings import STRICT
from icycle.methods.one_cycle._shrink import Shrink
from icycle.methods.one_cycle._stability import Stability
from icycle.saliency import group_norm
from icycle.selection import Budget, achieved, select
from icycle.structure import Structure, SubNetwork
from icycle.surgery import prune
from icycle.training import Loader, recalibrate

__all__ = ["OneCycle", "OneCycleReport", "Phases"]

_STATE_VERSION = 1

Criterion = Callable[[torch.nn.Module, Structure], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Phases:
    """When a run searches, shrinks and removes. Times are fractions of the run, so 12 epochs and 300 share one setting.

    Raises:
        TrainingError: a value is out of range.
    """

    __pydantic_config__ = STRICT

    monitor_start: float = 0.05  # searches begin
    sparsity_start: float = 0.05  # the marked channels begin to shrink
    sparsity_end: float = 0.35  # the deadline: the removal happens now if the search has not settled before
    checks: int = 200  # searches per run
    lag: float = 0.05  # a sub-network is compared with the one found this long before
    window: float = 0.05  # the indicator is a mean over this long
    threshold: float = 0.98  # of the indicator, 0..1: the removal happens once it is reached
    shrink: float = 8.0  # channels marked throughout have shrunk by exp(-shrink) at the deadline

    def __post_init__(self) -> None:
        starts = max(self.monitor_start, self.sparsity_start)
        in_range = (
            0 <= min(self.monitor_start, self.sparsity_start) <= starts < self.sparsity_end <= 1
            and self.checks >= 1
            and 0 < self.lag < 1
            and 0 <= self.window < 1
            and 0 < self.threshold <= 1
            and 0 <= self.shrink < math.inf
        )
        if not in_range:
            raise TrainingError(
                "Expected 0 <= monitor_start, sparsity_start < sparsity_end <= 1, checks >= 1, 0 < lag < 1, "
                f"0 <= window < 1, 0 < threshold <= 1 and shrink >= 0, but got {self}."
            )

    def shrunk_by(self, progress: float) -> float:
        """The log-shrink, 0..`shrink`, that channels marked from `sparsity_start` to `progress` have undergone.

        Its rate grows linearly: shrink * u^2, u running from 0 to 1 over the sparsity phase. The number of steps does
        not matter, and neither does the learning rate, whose future course nobody knows.
        """
        phase = (progress - self.sparsity_start) / (self.sparsity_end - self.sparsity_start)
        return self.shrink * min(max(phase, 0.0), 1.0) ** 2


@dataclass
class OneCycleReport:
    """What was asked, what came of it, and the seconds it took."""

    asked: str
    achieved: dict[str, float] = field(default_factory=dict)  # cost -> kept fraction, of the last sub-network
    searches: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("trace", "search", "shrink", "removal"), 0.0)
    )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


class OneCycle:
    """Prunes `model` while it is trained, from any training loop, by two calls:

        pruner = OneCycle(model, example_inputs, budget=Budget(macs=0.5), epochs=epochs, optimizer=optimizer)
        for epoch in range(epochs):
            pruner.start_epoch(epoch)
            for x, y in loader:
                ...; optimizer.step(); pruner.after_step()

    The removal may happen in either call. It replaces parameters, so whatever else holds them must be made anew once
    `removed` is true (a DistributedDataParallel wrapper). The optimizer keeps its state, and its schedule just goes on.

    Args:
        model: is pruned in place, when its time has come.
        example_inputs: a tensor, tuple or dict that the model runs on.
        budget: what the pruned model may cost.
        epochs: length of the run.
        optimizer: loses the removed channels' state along with the weights.
        steps_per_epoch: calls of `after_step` in an epoch. Learnt in the first epoch if not given; until then the run
            stands at that epoch's start.
        averaged: copies of the model (an exponential average) that lose the same channels.
        recalibrate: batches on which the batch-norm statistics are estimated anew after the removal, or a function that
            does it, given the model. Without it they recover as training goes on.
        criterion: (model, structure) -> scores; any that needs no data.
        round_to, limit: as in `icycle.select`.
        phases: when things happen.
        on_removal: called with "before" and "after" (and after the recalibration), to measure.

    Raises:
        BudgetError, StructureError: the budget is out of reach, or nothing is prunable; before any training.
        TrainingError: settings that contradict each other.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        example_inputs: Any,
        *,
        budget: Budget,
        epochs: int,
        optimizer: torch.optim.Optimizer | None = None,
        steps_per_epoch: int | None = None,
        averaged: Sequence[torch.nn.Module] = (),
        recalibrate: Loader | Callable[[torch.nn.Module], object] | None = None,
        criterion: Criterion = group_norm,
        round_to: int = 1,
        limit: float = 0.75,
        phases: Phases | None = None,
        on_removal: Callable[[Literal["before", "after"]], object] | None = None,
    ) -> None:
        self.model = unwrapped(model)
        self.optimizer = optimizer
        self.phases = phases or Phases()
        self.report = OneCycleReport(asked=str(budget))
        self.removed = False
        self.removal_epoch: int | None = None
        self.removal_progress: float | None = None
        with self.report.timed("trace"):
            self.structure = trace(self.model, example_inputs)
        self._averaged = tuple(averaged)
        self._recalibrate = recalibrate
        self._criterion = criterion
        self._select = partial(select, budget=budget, round_to=round_to, limit=limit)
        self._on_removal = on_removal or (lambda moment: None)
        self._clock = RunClock(epochs, steps_per_epoch)
        self._stability = Stability(self.phases.lag, self.phases.window)
        self._shrink = Shrink()
        self._shrunk = 0.0  # log-shrink that the run has come to
        self._next_check = self.phases.monitor_start
        require_same_everywhere("the model", self.structure.fingerprint, self._device)
        self.subnet = self._search()  # tells now, before any training, if the budget is out of reach

    @property
    def indicator(self) -> float | None:
        """The stability of the search, 0..1; None before there is one."""
        return self._stability.indicator

    def start_epoch(self, epoch: int) -> None:
        """Call before each epoch, counted from 0."""
        self._clock.start_epoch(epoch)
        self._shrunk = self.phases.shrunk_by(self._clock.progress)
        self._mark()  # anew, should a checkpoint have replaced the parameters
        self._check_when_due()

    def after_step(self) -> None:
        """Call after each step of the optimizer."""
        self._clock.step()
        if self.removed:
            return
        with self.report.timed("shrink"):
            before, self._shrunk = self._shrunk, self.phases.shrunk_by(self._clock.progress)
            self._shrink.advance(self._shrunk - before)
        self._check_when_due()

    def _check_when_due(self) -> None:
        """Search; at the stable moment, or at the deadline, remove; until then mark what would go."""
        progress, phases = self._clock.progress, self.phases
        overdue = progress >= phases.sparsity_end
        if self.removed or (progress < self._next_check and not overdue):
            return
        self._next_check = (math.floor(progress * phases.checks + 1e-9) + 1) / phases.checks
        self.subnet = self._search()
        self._stability.add(progress, self.subnet)
        if self._stability.reached(phases.threshold) or overdue:
            self._remove()
        else:
            self._mark()

    def _mark(self) -> None:
        """From now on, and once the sparsity phase has begun, shrink what the last search does not keep."""
        if self._stability.searches and not self.removed and self._clock.progress >= self.phases.sparsity_start:
            with self.report.timed("shrink"):
                self._shrink.mark(self.model, self.structure, self.subnet)

    def _search(self) -> SubNetwork:
        """The best channels within the budget (saliency, cost factor, limits, threshold); rank 0's, on every rank."""
        with self.report.timed("search"):
            scores = self._criterion(self.model, self.structure)
            subnet = broadcast_from_rank0(self._select(self.structure, scores), self._device)
            self.report.achieved = achieved(self.structure, subnet)
            self._params = (self.structure.params(), self.structure.params(subnet))
        self.report.searches += 1
        return subnet

    def _remove(self) -> None:
        """Take the marked channels out; training goes on with the same optimizer and the same schedule."""
        require_same_everywhere("the sub-network", repr(flatten(self.subnet).tolist()), self._device)
        self._on_removal("before")
        with self.report.timed("removal"):
            self._cut()
            if callable(self._recalibrate):
                self._recalibrate(self.model)
            elif self._recalibrate is not None:
                recalibrate(self.model, self._recalibrate)
        self.removal_epoch, self.removal_progress = self._clock.epoch, self._clock.progress
        self._on_removal("after")

    def _cut(self) -> None:
        """Take the marked channels out of the model; where the budget is everything there are none."""
        self._shrink.clear()
        if self.subnet != SubNetwork.full(self.structure):
            prune(self.model, self.structure, self.subnet, optimizer=self.optimizer, averaged=self._averaged)
        self.removed = True

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters(), torch.empty(0)).device

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, flat: tensors and JSON values."""
        searches = self._stability.searches
        return {
            "version": _STATE_VERSION,
            "sizes": {name: len(kept) for name, kept in self.subnet.keep.items()},
            "keep": flatten(self.subnet),
            "searches": torch.stack([flatten(subnet) for _, subnet in searches]) if searches else torch.empty(0),
            "search_progress": [progress for progress, _ in searches],
            "similarities": [list(pair) for pair in self._stability.similarities],
            "similar_since": self._stability.since,
            "next_check": self._next_check,
            "steps_per_epoch": self._clock.steps_per_epoch or self._clock.steps or None,
            "removed": self.removed,
            "removal_epoch": self.removal_epoch,
            "removal_progress": self.removal_progress,
            "params": list(self._params),
            "report": asdict(self.report),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; the next call is `start_epoch`.

        Where the channels had been removed by then and the model is still whole, they are removed from it (and from the
        optimizer's state) here, so that its checkpoint fits.

        Raises:
            TrainingError: the state is of another version, or of another model.
        """
        if state.get("version") != _STATE_VERSION:
            raise TrainingError(
                f"Expected a state of version {_STATE_VERSION}, but got {state.get('version')!r}; start anew."
            )
        sizes = state["sizes"]
        params = sum(parameter.numel() for parameter in self.model.parameters())
        whole, pruned = state["params"]
        if params != whole and not (state["removed"] and params == pruned):
            raise TrainingError(
                f"Expected a model of {whole:,} parameters, whose state this is, but got one of {params:,}; build the "
                "model with the settings of the interrupted run."
            )
        self._params = (whole, pruned)
        self.subnet = unflatten(state["keep"], sizes)
        if state["removed"] and params == whole:
            self._cut()
        self.removed = state["removed"]
        self.removal_epoch, self.removal_progress = state["removal_epoch"], state["removal_progress"]
        self._next_check = state["next_check"]
        self._clock.steps_per_epoch = state["steps_per_epoch"]
        self._stability.restore(
            [
                (progress, unflatten(keep, sizes))
                for progress, keep in zip(state["search_progress"], state["searches"], strict=True)
            ],
            [(progress, similarity) for progress, similarity in state["similarities"]],
            state["similar_since"],
        )
        self.report = OneCycleReport(**state["report"])
