"""The plain records of a finished run."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

import icycle
from icycle.latency import too_noisy
from icycle.methods import Removal
from icycle.structure import Structure

__all__ = ["AskedLatency", "GroupFacts", "Latency", "NetworkFacts", "Report", "environment", "group_facts"]

_VERSION = 1


@dataclass(frozen=True)
class Latency:
    """Milliseconds that a batch takes: the median of `runs`, and the quartiles around it."""

    median: float
    lower: float
    upper: float
    runs: int

    def told_apart(self, other: Latency) -> bool:
        """Whether the quartiles are narrow and do not overlap; else the machine does not tell which is faster."""
        if any(too_noisy(one.lower, one.median, one.upper) for one in (self, other)):
            return False
        return self.upper < other.lower or self.lower > other.upper


@dataclass(frozen=True)
class NetworkFacts:
    """What a network costs: MACs for one input, parameters, bytes as a file, latency per batch size, and the bytes that
    results of operations take at once, at the most, for one input (see `Structure.memory`)."""

    macs: int
    params: int
    file_bytes: int
    latency: Mapping[int, Latency]
    memory: int


@dataclass(frozen=True)
class AskedLatency:
    """What both networks take where a latency was asked for: on which target, in batches of how many examples."""

    target: str
    batch: int
    dense: Latency
    pruned: Latency

    @property
    def where(self) -> str:
        return f"latency asked for ({self.target}, batch {self.batch})"


@dataclass(frozen=True)
class GroupFacts:
    """How many of a group's channels are left, and the parameters and buffers that hold them."""

    name: str
    size: int
    kept: int
    members: tuple[str, ...]


def group_facts(dense: Structure, pruned: Structure) -> tuple[GroupFacts, ...]:
    """Every group that could lose channels, front to back; `pruned` is of the same network after all removals."""
    left = {group.name: group.size for group in pruned.groups}
    # a group of which one channel is left is no group any more
    return tuple(GroupFacts(group.name, group.size, left.get(group.name, 1), group.members) for group in dense.prunable)


@dataclass(frozen=True)
class Report:
    """A finished run: dense against pruned, seconds by stage, and where it was measured.

    The `accuracy` fields hold the metric that decides, whose name is `metric`; an accuracy is in percent.
    """

    recipe: str
    method: str
    dense: NetworkFacts
    pruned: NetworkFacts
    removals: tuple[Removal, ...]
    validation_accuracy: float
    test_accuracy: float
    seconds: Mapping[str, float]
    environment: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)  # what else the method tells
    metric: str = "accuracy"
    higher_is_better: bool = True  # of the metric
    test_metrics: Mapping[str, float] = field(default_factory=dict)  # all that the task measures
    groups: tuple[GroupFacts, ...] = field(default=(), repr=False)
    seed: int | None = None
    criterion: str = ""  # "" where the method has none
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the whole recipe, every value spelled out
    asked_latency: AskedLatency | None = None  # None where none was

    def speedup(self, batch_size: int) -> float:
        """How many times as fast the pruned network is; below 1 it is slower."""
        return self.dense.latency[batch_size].median / self.pruned.latency[batch_size].median

    def told_apart(self, batch_size: int) -> bool:
        """Whether the two latencies differ clearly (see `Latency.told_apart`)."""
        return self.pruned.latency[batch_size].told_apart(self.dense.latency[batch_size])

    def to_json(self) -> str:
        """All fields, and `speedup` for each batch size, null where the latencies do not clearly differ."""
        speedup = {size: self.speedup(size) if self.told_apart(size) else None for size in self.dense.latency}
        return json.dumps({"version": _VERSION, **asdict(self), "speedup": speedup}, indent=2)


def environment(device: str) -> dict[str, str]:
    """What a figure depends on beside the recipe."""
    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine()
    )
    return {
        "device": f"{device} ({name})",
        "threads": str(torch.get_num_threads()),
        "icycle": icycle.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
