"""The latency of a model and its sub-networks on a target: predicted from its operations, and measured whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from torch import nn

import icycle
from icycle.axes import Polynomial
from icycle.errors import LatencyError
from icycle.latency._batches import inputs_at, structure_at
from icycle.latency._cache import Cache, cache_folder
from icycle.latency._calls import Call, call_of, parameters_read
from icycle.latency._grid import measured_table, rough_table
from icycle.latency._prediction import Prediction, Term
from icycle.latency._table import Table
from icycle.latency._targets import Run, Setting, Target, find_target
from icycle.latency._timing import USUAL, Timing, interleaved
from icycle.selection import Budget
from icycle.structure import Operation, Structure, SubNetwork
from icycle.surgery import prune
from icycle.tracing import copy_of

__all__ = ["Latency"]

_SHARES = (0.7, 0.4)  # of every group's channels, in two of the networks that are measured whole
_RANDOM, _WIDTHS = 8, (0.25, 1.0)  # further such networks, and what they keep of each group
_ROUNDS = 150  # in which networks are timed in turn
_SECONDS, _SECONDS_EACH = 6.0, 4.0  # to time a network; and each of those that the prediction is fitted to
_MINOR = 0.004  # of the sum over all operations


class Latency:
    """How long a batch takes in a model's sub-networks.

    Args:
        model: is copied for every measurement, never changed.
        structure: its structure.
        budget: says target, batch, threads and precision.
        cache: where the times of operations are kept; `icycle.latency.cache_folder()` when omitted.

    Raises LatencyError where the target is unknown or not on this machine.
    """

    def __init__(self, model: nn.Module, structure: Structure, budget: Budget, cache: Path | None = None) -> None:
        self.setting = Setting.of(model, budget.threads, budget.precision)
        self.target: Target = find_target(budget.target, self.setting.precision)
        self.structure = structure
        self.model = model
        self.inputs = inputs_at(model, structure, budget.batch)
        self._budget = budget
        self._cache = Cache(cache or cache_folder(), self._conditions())
        self._measured: dict[bytes, float] = {}
        self._fresh: dict[tuple[str, tuple[int, ...]], Call] = {}  # operations at sizes that were not known before
        self.disturbed: list[float] = []  # of each measurement of a whole network, the share of disturbed readings

    @property
    def full(self) -> np.ndarray:
        """(groups,) int64: the whole network's counts."""
        return np.array([group.size for group in self.structure.prunable], dtype=np.int64)

    @cached_property
    def dense(self) -> float:
        """Milliseconds that the whole network takes."""
        with self.target.running(self.setting):
            return 1e3 * self._in_turn([self._dense_run], _SECONDS)[0].median

    @cached_property
    def prediction(self) -> Prediction:
        """Milliseconds as a function of the kept counts; measures what is not known yet."""
        plain = Prediction(*self._terms(), self.full)
        if not plain.terms:
            raise LatencyError(
                f"Expected target {self.target.name!r} to time the network's operations one by one, but it times none; "
                "`operation` has to return something that runs them."
            )
        networks = [SubNetwork.full(self.structure), *self._samples()]
        measured = [self.measure(network, seconds=_SECONDS_EACH) for network in networks]
        return plain.corrected([network.counts(self.structure) for network in networks], measured)

    def measure(self, subnet: SubNetwork, *, seconds: float = _SECONDS) -> float:
        """Milliseconds that a pruned copy takes; timed for so many seconds in turn with the dense network, by whose
        time it is stated."""
        counts = subnet.counts(self.structure)
        if (counts == self.full).all():
            return self.dense
        key = counts.tobytes()
        if key not in self._measured:
            pruned = self._runner(prune(copy_of(self.model), self.structure, subnet))
            with self.target.running(self.setting):
                dense, own = self._in_turn([self._dense_run, pruned], seconds)
            self._measured[key] = own.ratio_to(dense) * self.dense
        return self._measured[key]

    def _in_turn(self, runs: Sequence[Run], seconds: float) -> list[Timing]:
        timings = interleaved(runs, self.target.clock, self.target.watch, rounds=_ROUNDS, seconds=seconds)
        self.disturbed.append(timings[0].disturbed)
        return timings

    def _runner(self, model: nn.Module) -> Run:
        with self.target.running(self.setting):
            return self.target.network(model.eval(), self.inputs, self.setting)

    @cached_property
    def _dense_run(self) -> Run:
        return self._runner(copy_of(self.model))

    def _samples(self) -> Iterator[SubNetwork]:
        """The sub-networks that are measured whole beside the dense one: two narrow ones, and some with random widths,
        every other one with widths that are multiples of 16."""
        for share in _SHARES:
            yield self._keeping([share] * len(self.full), even=True)
        generator = np.random.default_rng(0)
        for number in range(_RANDOM):
            yield self._keeping(generator.uniform(*_WIDTHS, len(self.full)), even=number % 2 == 0)

    def _keeping(self, shares: Sequence[float] | np.ndarray, even: bool) -> SubNetwork:
        """The first channels of every group; where `even` of large groups a multiple of 16."""
        counts = {}
        for group, share in zip(self.structure.prunable, shares, strict=True):
            step = 16 if even and group.size >= 64 else 8 if even and group.size >= 32 else 1
            counts[group.name] = min(group.size, max(1, round(share * group.size / step)) * step)
        return SubNetwork.first(self.structure, counts)

    def _terms(self) -> tuple[tuple[Term, ...], Polynomial]:
        """A term for all operations that have the same table and the same free sizes; and how many parameters those
        read that have none."""
        calls = [(*call_of(operation, self.full), operation) for operation in self._operations()]
        calls = [own for own in calls if own[0].full]  # the others take as long in every sub-network
        with self.target.running(self.setting):
            tables = self._tables([call for call, *_ in calls])
        self._cache.write()
        found: dict[str, Term] = {}
        others = Polynomial.constant(0)
        for call, sizes, operation in calls:
            table, parameters = tables.get(call.identity), parameters_read(operation)
            if table is None:
                others += parameters
            else:
                key = f"{call.identity} {[sorted(size.terms.items()) for size in sizes]}"
                known = found.get(key, Term(table, sizes, parameters, 0, call.kind))
                found[key] = replace(known, times=known.times + 1)
        return tuple(found.values()), others

    def _operations(self) -> Sequence[Operation]:
        return structure_at(self.model, self.structure, self._budget.batch, self.inputs).operations

    def _tables(self, calls: Sequence[Call]) -> dict[str, Table]:
        """By the calls' identity, of those that the target runs on their own."""
        times = Counter(call.identity for call in calls)
        distinct = {call.identity: call for call in calls if self._runs(call)}
        tables = self._tables_of(distinct, times)
        while self._fresh:
            self._measure_again()
            tables = self._tables_of(distinct, times)
        return tables

    def _runs(self, call: Call) -> bool:
        """Whether the target runs it on its own."""
        return not call.rigid and self.target.operation(call, call.full, self.setting) is not None

    def _tables_of(self, distinct: Mapping[str, Call], times: Mapping[str, int]) -> dict[str, Table]:
        """What hardly takes time, even with a channel less (a convolution in groups may take thirty times as long
        then), is measured at few sizes."""
        whole = {name: times[name] * self._seconds(call, call.full) for name, call in distinct.items()}
        enough = _MINOR * sum(whole.values())
        tables = {}
        for name, call in distinct.items():
            own = partial(self._seconds, call)
            matters = max(whole[name], times[name] * own(_with_one_less(call))) > enough
            tables[name] = (measured_table if matters else rough_table)(call.full, call.units, own)
        return tables

    def _seconds(self, call: Call, sizes: tuple[int, ...]) -> float:
        known = self._cache.get(call.key, sizes)
        if known is None:
            known = self._timed(call, sizes)
            self._cache.put(call.key, sizes, known)
            self._fresh[call.key, sizes] = call
        return known

    def _measure_again(self) -> None:
        """All that is known from one moment, at others, seconds apart, and elsewhere in memory: either may make half of
        the difference. The lower quartile counts, as what else a machine does may take a good part of the memory's
        bandwidth for a while."""
        readings = [[self._seconds(call, sizes)] for (_, sizes), call in self._fresh.items()]
        for _ in range(self.target.moments - 1):
            for own, ((_, sizes), call) in zip(readings, self._fresh.items(), strict=True):
                own.append(self._timed(call, sizes))
        for own, (key, sizes) in zip(readings, self._fresh, strict=True):
            self._cache.put(key, sizes, float(np.quantile(own, USUAL, method="nearest")))
        self._fresh.clear()

    def _timed(self, call: Call, sizes: tuple[int, ...]) -> float:
        return max(self.target.seconds(call, sizes, self.setting), 1e-8)

    def _conditions(self) -> Mapping[str, str]:
        return {
            "target": self.target.name,
            "device": self.target.device(),
            "threads": str(self.setting.threads),
            "precision": self.setting.precision,
            "icycle": icycle.__version__,
            **self.target.versions(),
        }


def _with_one_less(call: Call) -> tuple[int, ...]:
    """The whole network's sizes, each smaller by its unit."""
    return tuple(max(size - unit, unit) for size, unit in zip(call.full, call.units, strict=True))
