"""Where latency is measured: an open registry of targets.

A target turns a network, or one operation at some sizes, into something that can be run again and again. Register one
of your own with `@icycle.latency.register`.
"""

from __future__ import annotations

import functools
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from icycle.errors import LatencyError
from icycle.latency._calls import Call
from icycle.latency._timing import keep_memory, seconds_per_call, thread_count
from icycle.latency._watch import Watch, others

__all__ = ["Setting", "Target", "find_target", "register", "targets"]

PRECISIONS = ("float32", "bfloat16", "float16", "float64")

Run = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """How a target is to run: threads of the processor, and "float32", "bfloat16", "float16" or "float64"."""

    threads: int
    precision: str = "float32"

    @staticmethod
    def of(model: nn.Module, threads: int | None = None, precision: str | None = None) -> Setting:
        """Torch's present number of threads, and the type of most of the model's numbers, unless told otherwise."""
        numbers: Counter[str] = Counter()
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                numbers[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
        own = max(numbers, key=numbers.__getitem__, default="float32")
        return Setting(threads or torch.get_num_threads(), precision or own)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype


class Target:
    """What every target says and does; the base class of those in the registry."""

    name = ""
    precisions: tuple[str, ...] = PRECISIONS  # that it can run in
    clock: Callable[[], float] = staticmethod(time.perf_counter)
    moments = 4  # at which an operation is measured
    watch: Watch = staticmethod(others)  # for what makes a reading doubtful

    @functools.cached_property
    def _overheads(self) -> dict[Setting, float]:
        """What was measured of them."""
        return {}

    def missing(self) -> str:
        """Why this machine does not have the target, and what to install; "" where it does."""
        return ""

    def device(self) -> str:
        """The device's name: times are kept for each."""
        return processor()

    def versions(self) -> Mapping[str, str]:
        """Of the packages that times depend on."""
        return {"torch": str(torch.__version__)}

    def network(self, model: nn.Module, inputs: Any, setting: Setting) -> Run:
        """Something that runs `model`, which is in evaluation mode, on `inputs` once and waits for the result."""
        raise NotImplementedError

    def operation(self, call: Call, sizes: Sequence[int], setting: Setting) -> Run | None:
        """Something that runs one operation at these free sizes; None where the target does not run it on its own."""
        raise NotImplementedError

    def seconds(self, call: Call, sizes: Sequence[int], setting: Setting) -> float:
        """How long the operation takes within a network."""
        run = self.operation(call, sizes, setting)
        if run is None:
            raise LatencyError(
                f"Expected {call.name} to run on {self.name} at sizes {tuple(sizes)} as it does at {call.full}, but it "
                "does not. Please report the model."
            )
        return seconds_per_call(run, self.clock, self.watch) - self._overhead(setting)

    def _overhead(self, setting: Setting) -> float:
        if setting not in self._overheads:
            run = self.overhead(setting)
            self._overheads[setting] = 0.0 if run is None else seconds_per_call(run, self.clock, self.watch)
        return self._overheads[setting]

    def overhead(self, setting: Setting) -> Run | None:
        """Something that takes as long as an operation does besides its work; None where that is nothing."""
        return None

    def peak_bytes(self, model: nn.Module, inputs: Any, setting: Setting) -> int | None:
        """The most bytes that results of operations take at once in a run of `model`, which is in evaluation mode;
        None where the target does not tell."""
        return None

    def running(self, setting: Setting) -> AbstractContextManager[None]:
        """Is entered around all measurements."""
        keep_memory()
        return thread_count(setting.threads) if setting.threads else nullcontext()


_targets: dict[str, Target] = {}
AnyTarget = TypeVar("AnyTarget", bound=type[Target])


def register(target: AnyTarget) -> AnyTarget:
    """Add a target, a class without arguments, under its `name`."""
    _targets[target.name] = target()
    return target


def targets() -> dict[str, str]:
    """Name -> "" where this machine has the target, else what is missing."""
    return {name: target.missing() for name, target in _targets.items()}


def find_target(name: str, precision: str = "float32") -> Target:
    """The target of that name; raises LatencyError where there is none, this machine does not have it, or it cannot run
    in that precision."""
    if name not in _targets:
        raise LatencyError(f"Expected a target out of {', '.join(sorted(_targets))}, but got {name!r}.")
    target = _targets[name]
    missing = target.missing()
    if missing:
        raise LatencyError(f"Expected this machine to have the target {name!r}, but {missing}.")
    if precision not in target.precisions:
        others = [other for other, own in _targets.items() if precision in own.precisions]
        hint = f", or a target that can: {', '.join(others)}" if others else ""
        raise LatencyError(
            f"Expected a precision out of {', '.join(target.precisions)} on {name!r}, but got {precision!r}; say "
            f"precision={target.precisions[0]!r}{hint}."
        )
    return target


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
