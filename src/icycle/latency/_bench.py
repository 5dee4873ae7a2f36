"""Networks side by side on one target: time, throughput, memory and energy, with an honest word on the noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from icycle.latency._targets import Setting, find_target
from icycle.latency._timing import Timing, interleaved
from icycle.tracing import copy_of

__all__ = ["Measurement", "bench", "too_noisy", "verdict"]

_NOISY = 0.3  # between the quartiles, as a share of the median
_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


@dataclass(frozen=True)
class Measurement:
    """One network on one target at one batch size.

    `joules` of the processor's package per batch, and `peak_bytes` that results of operations take at once; None where
    the platform, or the target, does not tell.
    """

    network: str
    target: str
    batch: int
    timing: Timing
    joules: float | None
    peak_bytes: int | None = None

    @property
    def throughput(self) -> float:
        """Examples per second."""
        return self.batch / self.timing.median

    @property
    def noisy(self) -> bool:
        lower, upper = self.timing.quartiles
        return too_noisy(lower, self.timing.median, upper)


def too_noisy(lower: float, median: float, upper: float) -> bool:
    """Do the quartiles lie too far apart for a comparison?"""
    return upper - lower > _NOISY * median


def bench(
    networks: Mapping[str, nn.Module],
    inputs: Mapping[int, Any],
    target: str,
    *,
    threads: int | None = None,
    precision: str | None = None,
    seconds: float = 5.0,
) -> list[Measurement]:
    """Measure all `networks` in turn, for each batch size of `inputs` (batch size -> inputs of that batch), in the
    `precision` of the first of them when that is omitted.

    Raises LatencyError where this machine does not have the target, or that cannot run in this precision.
    """
    setting = Setting.of(next(iter(networks.values())), threads, precision)
    found = find_target(target, setting.precision)
    results = []
    for batch, own in inputs.items():
        with found.running(setting):
            runs = [found.network(copy_of(network).eval(), own, setting) for network in networks.values()]
            timings = interleaved(runs, found.clock, found.watch, rounds=200, seconds=seconds)
            joules = [_joules(run) for run in runs]
            held = [found.peak_bytes(copy_of(network).eval(), own, setting) for network in networks.values()]
        results += [
            Measurement(name, target, batch, timing, energy, peak)
            for name, timing, energy, peak in zip(networks, timings, joules, held, strict=True)
        ]
    return results


def verdict(dense: Measurement, other: Measurement) -> str:
    """The other's time as a share of the dense network's, or in words why no share can be given."""
    if dense.noisy or other.noisy:
        return "too noisy to compare"
    (lower, upper), (own_lower, own_upper) = dense.timing.quartiles, other.timing.quartiles
    if own_lower <= upper and lower <= own_upper:
        return "no difference shown"
    return f"{other.timing.median / dense.timing.median:.1%}"


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
