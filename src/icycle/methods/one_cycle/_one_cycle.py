"""One-cycle structured pruning: pre-training, pruning and fine-tuning inside one ordinary training run.

1. Train with the ordinary optimizer and learning-rate schedule, from scratch or from weights that are there
2. Again and again, score every channel and choose the sub-network that meets the budget       `_search`
3. Compare it with the one chosen a while before: how stable is the search?                     `Stability`
4. Once it has settled, or its time is over, the weights of the channels that will go shrink
   a little after every step                                                                    `Shrink`
5. Then these channels are removed, and training goes on to its end                             `_remove`

Source: "One-Cycle Structured Pruning via Stability-Driven Subnetwork Search", arXiv 2501.13439. Where its released
code and its idea part, this follows the idea: the shrink acts on the weights and not through a loss term without a
gradient; it follows the search, or is undone while channels are ranked, so that it cannot make the stability by which
the search is judged; the search reads exact costs and copies no model; times are fractions of the run; the optimizer
lives through the removal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from icycle.compensation import compensate as refit_on
from icycle.engine import trace
from icycle.errors import BudgetError, SurgeryError, TrainingError
from icycle.latency import Attempt, Selector
from icycle.methods._distributed import flatten, require_same_everywhere, unflatten
from icycle.methods._first_batch import require_first_batch, require_many_readings
from icycle.methods._remove import Refit, remove
from icycle.methods._run_clock import RunClock, wrappers_of
from icycle.methods.one_cycle._phases import Phases
from icycle.methods.one_cycle._shrink import Shrink
from icycle.methods.one_cycle._stability import Stability
from icycle.probing import unwrapped
from icycle.saliency import group_norm
from icycle.selection import Budget, achieved
from icycle.structure import Structure, SubNetwork
from icycle.surgery import require_followers
from icycle.training import Loader, from_first, recalibrate

__all__ = ["Criterion", "OneCycle", "OneCycleReport"]

_STATE_VERSION = 2
_TAKEN = "taken."  # the state's keys of what the shrink took from each parameter

Criterion = Callable[[torch.nn.Module, Structure], Mapping[str, torch.Tensor]]


@dataclass
class OneCycleReport:
    """What was asked, what came of it, and the seconds it took."""

    asked: str
    achieved: dict[str, float] = field(default_factory=dict)  # cost -> kept fraction, of the last sub-network
    searches: int = 0
    # (progress, indicator) after each search
    curve: list[tuple[float, float | None]] = field(default_factory=list, repr=False)
    shrink_start: float | None = None  # progress at which the shrink began
    reason: Literal["stable", "deadline"] | None = None  # of the removal
    first_to_final: float | None = None  # similarity of the first sub-network to the one that was kept, 0..1
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


def _require_types(budget: object, phases: object, criterion: object) -> None:
    if not isinstance(budget, Budget):
        raise BudgetError(f"Expected budget as a Budget, but got {budget!r}; write Budget(macs=0.5), say.")
    if not isinstance(phases, Phases | None):
        raise TrainingError(f"Expected phases as Phases, but got {phases!r}; write Phases(sparsity_end=0.3), say.")
    if not callable(criterion):
        raise TrainingError(
            f"Expected criterion as a function (model, structure) -> scores, such as icycle.saliency.l1, but got "
            f"{criterion!r}."
        )


def _refitting(batches: Iterable[Any]) -> Refit:
    return lambda model, structure, subnet: refit_on(model, structure, subnet, batches)


def _require_state_per_parameter(optimizer: object) -> None:
    """LBFGS has no state yet that a removal could not slice; at the removal it has."""
    optimizers = optimizer if isinstance(optimizer, Sequence) else (optimizer,)
    if any(isinstance(each, torch.optim.LBFGS) for each in optimizers):
        raise SurgeryError(
            "Expected an optimizer with a state for each parameter, but LBFGS keeps a history of all of them in one "
            "piece, which cannot lose channels in mid-run; train with another optimizer."
        )


class OneCycle:
    """Prunes `model` while it is trained, from any training loop, by two calls:

        pruner = OneCycle(model, example_inputs, budget=Budget(macs=0.5), epochs=epochs, optimizer=optimizer)
        for epoch in range(epochs):
            pruner.start_epoch(epoch)
            for x, y in loader:
                ...; optimizer.step(); pruner.after_step()

    The removal may happen in either call. It replaces parameters; the optimizer keeps its state, and its schedule just
    goes on. Whatever else holds parameters must be made anew once `removed` is true.

    Args:
        model: is pruned in place, when its time has come. A `DistributedDataParallel` wrapper given here is built anew,
            and stays the same object; a compiled model compiles again by itself.
        example_inputs: a tensor, tuple or dict that the model runs on.
        budget: what the pruned model may cost.
        epochs: length of the run.
        optimizer: loses the removed channels' state along with the weights; one or several.
        steps_per_epoch: calls of `after_step` in an epoch: steps of the optimizer, of which gradient accumulation makes
            fewer than there are batches. Learnt in the first epoch if not given; until then the run stands at that
            epoch's start.
        averaged: copies of the model (an exponential average) that lose the same channels.
        compensate: batches of training data on which what reads the removed channels is refitted right before the
            removal (see `icycle.compensate`), or a function (model, structure, subnet) that does it; in the averaged
            copies, too. Default: nothing is.
        recalibrate: batches on which the batch-norm statistics of the model and its averaged copies are estimated anew
            after the removal, or a function that does it, given one of them. Without it they recover in training.
        criterion: (model, structure) -> scores.
        round_to, limit, limit_rate, cost_factor: as in `icycle.select`.
        phases: when things happen.
        on_removal: called with "before" and "after" (and after the recalibration), to measure.

    Raises:
        BudgetError, StructureError: the budget is none, or out of reach, or nothing is prunable.
        TrainingError: settings that contradict each other.
        SurgeryError: the optimizer, or a copy, is of another model, or the optimizer is LBFGS.
        DataError: the model does not run on the first batch of `compensate` or `recalibrate`, or they can be read only
            once and there are averaged copies, which read them as well.

        All of them before any training.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        example_inputs: Any,
        *,
        budget: Budget,
        epochs: int,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        steps_per_epoch: int | None = None,
        averaged: Sequence[torch.nn.Module] = (),
        compensate: Iterable[Any] | Refit | None = None,
        recalibrate: Loader | Callable[[torch.nn.Module], object] | None = None,
        criterion: Criterion = group_norm,
        round_to: int = 1,
        limit: float = 0.75,
        limit_rate: float = 0.1,
        cost_factor: bool = True,
        phases: Phases | None = None,
        on_removal: Callable[[Literal["before", "after"]], object] | None = None,
    ) -> None:
        _require_types(budget, phases, criterion)
        self.model = unwrapped(model)
        self._wrappers = wrappers_of(model)
        self.optimizer = optimizer
        self.phases = phases or Phases()
        self.report = OneCycleReport(asked=str(budget))
        self.removed = False
        self.removal_epoch: int | None = None
        self.removal_progress: float | None = None
        with self.report.timed("trace"):
            self.structure = trace(self.model, example_inputs)
        self._averaged = tuple(averaged)
        require_followers(self.model, self.structure, optimizer, self._averaged)
        _require_state_per_parameter(optimizer)
        for name, batches in (("compensate", compensate), ("recalibrate", recalibrate)):
            if batches is not None and not callable(batches):
                if self._averaged:
                    require_many_readings(name, batches)
                require_first_batch(name, self.model, batches)
        self._refit = compensate if compensate is None or callable(compensate) else _refitting(compensate)
        self._recalibrate = recalibrate
        self._criterion = criterion
        self._selector = Selector(self.structure, budget, self.model)
        self._limits = {"round_to": round_to, "limit": limit, "limit_rate": limit_rate, "cost_factor": cost_factor}
        self._on_removal = on_removal or (lambda moment: None)
        self._clock = RunClock(epochs, steps_per_epoch)
        self._stability = Stability(self.phases.lag, self.phases.window, self.phases.rise)
        self._shrink = Shrink()
        self._shrunk = 0.0  # log-shrink that the run has come to
        self._next_check = self.phases.monitor_start
        self._first: SubNetwork | None = None
        self._removal_due: float | None = None  # progress; known once the search is over
        require_same_everywhere("the model", self.structure.fingerprint, self._device)
        self.subnet = self._search(measured=True)  # tells now, before any training, if the budget is out of reach

    @property
    def indicator(self) -> float | None:
        """The stability of the search, 0..1; None before there is one."""
        return self._stability.indicator

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The sub-networks that the last search for a latency measured; () where the budget has none."""
        return self._selector.attempts

    def start_epoch(self, epoch: int) -> None:
        """Call before each epoch, counted from 0."""
        self._clock.start_epoch(epoch)
        self._shrunk = self._log_shrink
        self._mark()  # anew, should a checkpoint have replaced the parameters
        self._check_when_due()

    def after_step(self) -> None:
        """Call after each step of the optimizer."""
        self._clock.step()
        if self.removed:
            return
        with self.report.timed("shrink"):
            before, self._shrunk = self._shrunk, self._log_shrink
            self._shrink.advance(self._shrunk - before)
        self._check_when_due()

    @property
    def _log_shrink(self) -> float:
        return self.phases.shrunk_by(self._clock.progress, self.report.shrink_start)

    def _check_when_due(self) -> None:
        """Search, until the search has settled or its time is over; remove, when that is due."""
        progress, phases = self._clock.progress, self.phases
        if self.removed:
            return
        if self._removal_due is None and (progress >= self._next_check or progress >= phases.search_end):
            self._search_again(progress)
        if self._removal_due is not None and progress >= self._removal_due:
            self._remove()

    def _search_again(self, progress: float) -> None:
        phases, stability = self.phases, self._stability
        self._next_check = (math.floor(progress * phases.checks + 1e-9) + 1) / phases.checks
        self.subnet = self._search()
        self._first = self._first or self.subnet
        stability.add(progress, self.subnet)
        self.report.curve.append((progress, self.indicator))
        settled = stability.reached(phases.threshold) or (
            stability.reached(phases.plateau) and stability.stopped_rising(phases.patience)
        )
        if settled or progress >= phases.search_end:
            self.report.reason = "stable" if settled else "deadline"
            self._removal_due = phases.removal_after(progress)
            if self._selector.measures:
                self.subnet = self._search(measured=True)
        ended = self._removal_due is not None and phases.shrinks_last
        if self.report.shrink_start is None and (ended or self._shrinks_along(progress)):
            self.report.shrink_start = progress
        self._mark()

    def _shrinks_along(self, progress: float) -> bool:
        start = self.phases.sparsity_start
        return start is not None and progress >= start

    def _mark(self) -> None:
        """From now on, once the shrink has begun, shrink what the last search does not keep."""
        if self.report.shrink_start is not None and not self.removed:
            with self.report.timed("shrink"):
                self._shrink.mark(self.model, self.structure, self.subnet)

    def _search(self, measured: bool = False) -> SubNetwork:
        """The best channels within the budget (saliency, cost factor, limits, threshold); rank 0's, on every rank.

        Latency and memory are predicted from what was measured before, or `measured` on the sub-network itself."""
        with self.report.timed("search"):
            with self._shrink.undone(self.model):
                scores = self._criterion(self.model, self.structure)
            select = self._selector.measured if measured else self._selector
            subnet = from_first(select(scores, **self._limits))
            self.report.achieved = achieved(self.structure, subnet)
            self._params = (self.structure.params(), self.structure.params(subnet))
        self.report.searches += 1
        return subnet

    def _remove(self) -> None:
        """Take the marked channels out; training goes on with the same optimizer and the same schedule."""
        self.report.first_to_final = self.subnet.similarity(self._first or self.subnet)
        self._on_removal("before")
        with self.report.timed("removal"):
            self._cut()
            self.removal_epoch, self.removal_progress = self._clock.epoch, self._clock.progress
            for model in (self.model, *self._averaged):
                self._recalibrate_on_batches(model)
        self._on_removal("after")

    def _recalibrate_on_batches(self, model: torch.nn.Module) -> None:
        if callable(self._recalibrate):
            self._recalibrate(model)
        elif self._recalibrate is not None:
            recalibrate(model, self._recalibrate)

    def _cut(self, refit: bool = True) -> None:
        """Take the marked channels out of the model; where the budget is everything there are none."""
        self._shrink.clear()
        if self.subnet != SubNetwork.full(self.structure):
            remove(
                self.model,
                self.structure,
                self.subnet,
                optimizer=self.optimizer,
                averaged=self._averaged,
                refit=self._refit if refit else None,
            )
            for wrapper in self._wrappers:
                wrapper.renew()
        self.removed = True

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters(), torch.empty(0)).device

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, flat: tensors and JSON values."""
        searches = self._stability.searches
        taken, pending = self._shrink.state
        return {
            "version": _STATE_VERSION,
            "sizes": {name: len(kept) for name, kept in self.subnet.keep.items()},
            "keep": flatten(self.subnet),
            "searches": torch.stack([flatten(subnet) for _, subnet in searches]) if searches else torch.empty(0),
            "search_progress": [progress for progress, _ in searches],
            "similarities": [list(pair) for pair in self._stability.similarities],
            "similar_since": self._stability.since,
            "best": self._stability.best,
            "first": torch.empty(0) if self._first is None else flatten(self._first),
            "next_check": self._next_check,
            "steps_per_epoch": self._clock.steps_per_epoch,
            "epoch": self._clock.epoch,
            "steps": self._clock.steps,
            "removed": self.removed,
            "removal_epoch": self.removal_epoch,
            "removal_progress": self.removal_progress,
            "params": list(self._params),
            "report": asdict(self.report),
            "removal_due": self._removal_due,
            "pending": pending,
            **{_TAKEN + name: tensor for name, tensor in taken.items() if not self.removed},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; the next call is the one that would have followed, or `start_epoch`.

        Where the channels had been removed by then and the model is still whole, they are removed from it (and from the
        optimizer's state) here, so that its checkpoint fits.

        Raises:
            TrainingError: the state is of another version, or of another model, or lacks something.
        """
        self._require_own(state)
        sizes = state["sizes"]
        self._params = (state["params"][0], state["params"][1])
        self.subnet = unflatten(state["keep"], sizes)
        if state["removed"] and self._parameters == self._params[0]:
            self._cut(refit=False)  # the weights are those of the state
        self.removed = state["removed"]
        self.removal_epoch, self.removal_progress = state["removal_epoch"], state["removal_progress"]
        self._next_check, self._removal_due = state["next_check"], state["removal_due"]
        self._clock.steps_per_epoch = state["steps_per_epoch"]
        self._clock.go_on(state.get("epoch", 0), state.get("steps", 0))
        self._stability.restore(
            [
                (progress, unflatten(keep, sizes))
                for progress, keep in zip(state["search_progress"], state["searches"], strict=True)
            ],
            [(progress, similarity) for progress, similarity in state["similarities"]],
            state["similar_since"],
            None if state["best"] is None else (state["best"][0], state["best"][1]),
        )
        self._first = unflatten(state["first"], sizes) if len(state["first"]) else None
        report = state["report"]
        self.report = OneCycleReport(**{**report, "curve": [(when, value) for when, value in report["curve"]]})
        self._mark()
        taken = {key[len(_TAKEN) :]: value for key, value in state.items() if key.startswith(_TAKEN)}
        self._shrink.restore(taken, state["pending"])
        self._shrunk = self._log_shrink

    def _require_own(self, state: Mapping[str, Any]) -> None:
        if state.get("version") != _STATE_VERSION:
            raise TrainingError(
                f"Expected a state of version {_STATE_VERSION}, but got {state.get('version')!r}; start anew."
            )
        missing = {key for key in self.state_dict() if not key.startswith(_TAKEN)} - {"epoch", "steps", *state}
        if missing:
            raise TrainingError(f"Expected a whole state, but it lacks {', '.join(sorted(missing))}; start anew.")
        params = self._parameters
        whole, pruned = state["params"]
        if params != whole and not (state["removed"] and params == pruned):
            raise TrainingError(
                f"Expected a model of {whole:,} parameters, whose state this is, but got one of {params:,}; build the "
                "model with the settings of the interrupted run."
            )

    @property
    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())
