"""The latency of a model and its sub-networks on a target: predicted from its operations, and measured whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import icycle
from icycle.engine import trace
from icycle.errors import LatencyError
from icycle.latency._cache import Cache, cache_folder
from icycle.latency._calls import Call, call_of
from icycle.latency._prediction import Prediction, Term
from icycle.latency._table import Table, measured_table
from icycle.latency._targets import Setting, Target, find_target
from icycle.latency._timing import interleaved, seconds_per_call
from icycle.selection import Budget
from icycle.structure import Structure, SubNetwork
from icycle.surgery import prune
from icycle.tracing import copy_of, map_tensors

__all__ = ["Latency", "batch_of"]

_SHARES = (0.7, 0.4)  # of every group's channels, in the networks that are measured whole beside the dense one


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
        self.target: Target = find_target(budget.target)
        self.setting = Setting(budget.threads or torch.get_num_threads(), budget.precision)
        self.structure = structure
        self.model = model
        self.inputs = _example(structure, budget.batch)
        self._budget = budget
        self._cache = Cache(cache or cache_folder(), self._conditions())
        self._measured: dict[bytes, float] = {}

    @property
    def full(self) -> np.ndarray:
        """(groups,) int64: the whole network's counts."""
        return np.array([group.size for group in self.structure.prunable], dtype=np.int64)

    @cached_property
    def dense(self) -> float:
        """Milliseconds that the whole network takes."""
        with self.target.running(self.setting):
            return 1e3 * interleaved([self._dense_run], self.target.clock)[0].median

    @cached_property
    def prediction(self) -> Prediction:
        """Milliseconds as a function of the kept counts; measures what is not known yet."""
        plain = Prediction(self._terms(), self.full)
        networks = [SubNetwork.full(self.structure), *(self._narrow(share) for share in _SHARES)]
        return plain.corrected(
            [net.counts(self.structure) for net in networks], [self.measure(net) for net in networks]
        )

    def measure(self, subnet: SubNetwork) -> float:
        """Milliseconds that a pruned copy takes; timed in turn with the dense network, by whose time it is stated."""
        counts = subnet.counts(self.structure)
        if (counts == self.full).all():
            return self.dense
        key = counts.tobytes()
        if key not in self._measured:
            pruned = self._runner(prune(copy_of(self.model), self.structure, subnet))
            with self.target.running(self.setting):
                dense, own = interleaved([self._dense_run, pruned], self.target.clock)
            self._measured[key] = own.ratio_to(dense) * self.dense
        return self._measured[key]

    def _runner(self, model: nn.Module) -> Callable[[], object]:
        with self.target.running(self.setting):
            return self.target.network(model.eval(), self.inputs, self.setting)

    @cached_property
    def _dense_run(self) -> Callable[[], object]:
        return self._runner(copy_of(self.model))

    def _narrow(self, share: float) -> SubNetwork:
        """The first channels of every group; of large groups a multiple of 16, so that no width is an odd one."""
        keep = {}
        for group in self.structure.prunable:
            step = 16 if group.size >= 64 else 8 if group.size >= 32 else 1
            count = min(group.size, max(1, round(share * group.size / step)) * step)
            keep[group.name] = torch.arange(group.size) < count
        return SubNetwork(keep)

    def _terms(self) -> tuple[Term, ...]:
        """A term for all operations that have the same table and the same free sizes."""
        found: dict[str, Term] = {}
        tables: dict[str, Table | None] = {}
        with self.target.running(self.setting):
            for operation in self._operations():
                call, sizes = call_of(operation, self.full)
                if not call.full:
                    continue  # as long in every sub-network
                kind = f"{call.key} {call.full}"
                if kind not in tables:
                    tables[kind] = self._table(call)
                table = tables[kind]
                if table is None:
                    continue
                key = f"{kind} {[sorted(size.terms.items()) for size in sizes]}"
                known = found.get(key, Term(table, sizes, 0))
                found[key] = replace(known, times=known.times + 1)
        self._cache.write()
        return tuple(found.values())

    def _table(self, call: Call) -> Table | None:
        """Measured on the target or known from before; None where the target does not run it on its own."""
        if call.rigid or self.target.operation(call, call.full, self.setting) is None:
            return None
        return measured_table(call.full, call.units, lambda sizes: self._seconds(call, tuple(sizes)))

    def _seconds(self, call: Call, sizes: tuple[int, ...]) -> float:
        known = self._cache.get(call.key, sizes)
        if known is None:
            run = self.target.operation(call, sizes, self.setting)
            if run is None:
                raise LatencyError(
                    f"Expected {call.name} to run on {self.target.name} at sizes {sizes} as it does at {call.full}, "
                    "but it does not. Please report the model."
                )
            known = max(seconds_per_call(run, self.target.clock) - self._overhead, 1e-8)
            self._cache.put(call.key, sizes, known)
        return known

    @cached_property
    def _overhead(self) -> float:
        run = self.target.overhead(self.setting)
        return 0.0 if run is None else seconds_per_call(run, self.target.clock)

    def _operations(self) -> Sequence[Any]:
        """Of a batch as large as asked for; the structure is traced anew where it saw another."""
        if self._budget.batch in (None, batch_of(self.structure)):
            return self.structure.operations
        for head_width in (False, True):
            other = trace(copy_of(self.model).eval(), self.inputs, head_width=head_width)
            if [(g.name, g.size) for g in other.prunable] == [(g.name, g.size) for g in self.structure.prunable]:
                return other.operations
        raise LatencyError(
            f"Expected the same groups with a batch of {self._budget.batch} as with the traced one, but they differ; "
            "trace the model with inputs of the batch that is to be measured."
        )

    def _conditions(self) -> Mapping[str, str]:
        return {
            "target": self.target.name,
            "device": self.target.device(),
            "threads": str(self.setting.threads),
            "precision": self.setting.precision,
            "icycle": icycle.__version__,
            **self.target.versions(),
        }


def batch_of(structure: Structure) -> int:
    """Examples in the traced batch: the first dimension of the first input."""
    sizes: list[int] = []
    if structure.example is not None:
        map_tensors(structure.example.inputs, lambda tensor: sizes.extend(tensor.shape[:1]))
    return sizes[0] if sizes else 1


def _example(structure: Structure, batch: int | None) -> Any:
    """Inputs like those of the trace, with numbers in the floats, and with `batch` examples."""
    if structure.example is None or not structure.operations:
        raise LatencyError(
            "Expected a structure that icycle.trace made, but this one has no operations: no latency can be told."
        )
    traced = batch_of(structure)
    generator = torch.Generator().manual_seed(0)

    def real(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_meta:
            made = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            order = sorted(range(tensor.dim()), key=tensor.stride().__getitem__, reverse=True)
            made = made.permute(order).contiguous().permute(sorted(range(len(order)), key=order.__getitem__))
        else:
            made = tensor.detach().clone()
        if batch is not None and batch != traced and made.dim() and made.shape[0] == traced:
            made = made[torch.arange(batch) % traced]
        return made

    return map_tensors(structure.example.inputs, real)
