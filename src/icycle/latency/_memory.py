"""The memory that results of operations take at once: of a run, and of any sub-network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from icycle.errors import LatencyError
from icycle.latency._batches import inputs_at, structure_at
from icycle.latency._targets import Setting, find_target
from icycle.selection import Budget
from icycle.structure import Structure, SubNetwork
from icycle.surgery import prune
from icycle.tracing import call_with, copy_of, map_tensors, undisturbed

__all__ = ["Memory", "peak_activation_bytes"]


class Memory:
    """The most bytes that results of operations take at once in a model's sub-networks: a cost, and what a run says.

    Args:
        model: is copied for every measurement, never changed.
        structure: its structure.
        budget: says target, batch, threads and precision.

    Raises LatencyError where the target is unknown, not on this machine, or one that does not tell its memory.
    """

    def __init__(self, model: nn.Module, structure: Structure, budget: Budget) -> None:
        self._setting = Setting.of(model, budget.threads, budget.precision)
        self._target = find_target(budget.target, self._setting.precision)
        self._model = model
        self._structure = structure
        self._inputs = inputs_at(model, structure, budget.batch)
        self._cost = structure_at(model, structure, budget.batch, self._inputs).costs["memory"]
        self._factor = 1.0  # what a run takes, as a share of what the structure says
        self.dense = self.correct(SubNetwork.full(structure))  # bytes

    def __call__(self, counts: np.ndarray) -> int:
        """Bytes, predicted, with `counts` (groups,) channels kept in each prunable group."""
        return round(self._factor * self._cost(counts))

    def gradient(self, counts: np.ndarray) -> np.ndarray:
        """(groups,): bytes that one more channel of each group costs."""
        return self._factor * self._cost.gradient(counts)

    def measure(self, subnet: SubNetwork) -> int:
        """Bytes that a run of a pruned copy takes."""
        full = subnet == SubNetwork.full(self._structure)
        model = copy_of(self._model) if full else prune(copy_of(self._model), self._structure, subnet)
        with self._target.running(self._setting):
            found = self._target.peak_bytes(model.eval(), self._inputs, self._setting)
        if found is None:
            raise LatencyError(
                f"Expected a target whose memory can be measured, such as torch, but {self._target.name!r} does not "
                "tell what it takes; give target='torch' for a budget of memory, or leave memory out."
            )
        return found

    def correct(self, subnet: SubNetwork) -> int:
        """Make the prediction agree with a run of `subnet`, and return what that takes."""
        taken = self.measure(subnet)
        self._factor = taken / max(self._cost(subnet.counts(self._structure)), 1)
        return taken


def peak_activation_bytes(model: nn.Module, inputs: Any) -> int:
    """The largest number of bytes that results of operations take at once in a run without gradients, inputs not
    counted."""
    own = copy_of(model).eval()
    counter = _LiveResults([*own.parameters(), *own.buffers(), *_tensors(inputs)])
    with undisturbed(model), torch.no_grad(), counter:
        result = call_with(own, inputs)
    del result
    return counter.peak


class _LiveResults(TorchDispatchMode):
    """Sees every operation, and keeps account of the storages that are alive."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._alive = {key: (ref, size) for key, (ref, size) in self._alive.items() if not ref.expired()}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known and storage._cdata not in self._alive:
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def _tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_tensors(value, found.append)
    return found
