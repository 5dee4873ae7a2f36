"""Networks side by side on one target: time, throughput, memory and energy, with an honest word on the noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from icycle.latency._targets import Setting, find_target
from icycle.latency._timing import Timing, interleaved
from icycle.tracing import call_with, copy_of, map_tensors, undisturbed

__all__ = ["Measurement", "bench", "peak_activation_bytes", "verdict"]

_NOISY = 0.3  # between the quartiles, as a share of the median
_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


@dataclass(frozen=True)
class Measurement:
    """One network on one target at one batch size.

    `joules` of the processor's package per batch; None where the platform does not tell.
    """

    network: str
    target: str
    batch: int
    timing: Timing
    joules: float | None

    @property
    def throughput(self) -> float:
        """Examples per second."""
        return self.batch / self.timing.median

    @property
    def noisy(self) -> bool:
        lower, upper = self.timing.quartiles
        return upper - lower > _NOISY * self.timing.median


def bench(
    networks: Mapping[str, nn.Module],
    inputs: Mapping[int, Any],
    target: str,
    *,
    threads: int | None = None,
    precision: str = "float32",
    seconds: float = 5.0,
) -> list[Measurement]:
    """Measure all `networks` in turn, for each batch size of `inputs` (batch size -> inputs of that batch).

    Raises LatencyError where this machine does not have the target.
    """
    found = find_target(target)
    setting = Setting(threads or torch.get_num_threads(), precision)
    results = []
    for batch, own in inputs.items():
        with found.running(setting):
            runs = [found.network(copy_of(network).eval(), own, setting) for network in networks.values()]
            timings = interleaved(runs, found.clock, rounds=200, seconds=seconds)
            joules = [_joules(run) for run in runs]
        results += [
            Measurement(name, target, batch, timing, energy)
            for name, timing, energy in zip(networks, timings, joules, strict=True)
        ]
    return results


def verdict(dense: Measurement, other: Measurement) -> str:
    """The other's time as a share of the dense network's, or in words why no share can be given."""
    if dense.noisy or other.noisy:
        return "too noisy to compare"
    (lower, upper), (own_lower, own_upper) = dense.timing.quartiles, other.timing.quartiles
    if own_lower <= upper and lower <= own_upper:
        return "no difference shown"
    return f"{other.timing.ratio_to(dense.timing):.1%}"


def _joules(run: Callable[[], object], calls: int = 20) -> float | None:
    before = _energy()
    if before is None:
        return None
    for _ in range(calls):
        run()
    after = _energy()
    return None if after is None or after < before else (after - before) / calls


def _energy() -> float | None:
    """Joules of the processor's package since some moment, by RAPL; None where they cannot be read."""
    try:
        return int(_RAPL.read_text()) / 1e6
    except (OSError, ValueError):
        return None


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
