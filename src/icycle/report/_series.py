"""Runs that differ in nothing but the seed, taken together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from icycle.report._runs import RunRecord

__all__ = ["Series", "Spread", "in_series", "seconds_comparable"]

_TOLD = 2  # settings in a name


@dataclass(frozen=True)
class Spread:
    """A mean, and the standard deviation around it (0 for one value)."""

    mean: float
    deviation: float

    def text(self, style: str, scale: float = 1.0, unit: str = "") -> str:
        """The mean, and the deviation where there is one; both times `scale`, in a format of numbers."""
        around = f" ± {self.deviation * scale:{style}}" if self.deviation > 0 else ""
        return f"{self.mean * scale:{style}}{around}{unit}"


@dataclass(frozen=True)
class Series:
    """Runs of one recipe with several seeds."""

    name: str
    runs: tuple[RunRecord, ...]

    @property
    def count(self) -> str:
        return f"{len(self.runs)} runs" if len(self.runs) > 1 else "one run"

    @property
    def seeds(self) -> set[int | None]:
        return {run.report.get("seed") for run in self.runs}

    def spread(self, of: Callable[[RunRecord], float]) -> Spread:
        """The spread of a figure over the runs."""
        values = [of(run) for run in self.runs]
        return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


def in_series(runs: Sequence[RunRecord]) -> list[Series]:
    """The runs by what they were asked to do, the seed apart; named after the method and, where several series have one
    method, after the settings in which they differ."""
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        asked = dict(_asked(run)) or {"run": run.name}
        found.setdefault(json.dumps([run.report["method"], asked], sort_keys=True), []).append(run)
    every = [tuple(own) for own in found.values()]
    return [Series(_name(own, every), own) for own in every]


def seconds_comparable(series: Sequence[Series]) -> bool:
    """Do the seconds of all runs leave out the same training of weights, or none?"""
    return len({run.untold for one in series for run in one.runs}) == 1


def _asked(run: RunRecord) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of the settings that make runs different, which the seed and a name do not. The settings of
    another run stand for its folder, which may have the seed in its name."""
    others = {"model.weights": run.origin, "method.of": run.shape_of}

    def flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        other = others.get(prefix)
        if other is not None:
            for key, inner in _asked(other):
                yield f"{prefix}.{key}", inner
        elif isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from flat(f"{prefix}.{key}" if prefix else key, inner)
        elif prefix not in ("seed", "name"):
            yield prefix, value

    return flat("", run.settings)


def _name(own: Sequence[RunRecord], every: Sequence[Sequence[RunRecord]]) -> str:
    method = str(own[0].report["method"])
    alike = [dict(_asked(other[0])) for other in every if other[0].report["method"] == method]
    if len(alike) == 1:
        return method
    asked = dict(_asked(own[0]))
    different = [key for key, value in asked.items() if any(other.get(key) != value for other in alike)]
    told = ", ".join(f"{key.removeprefix('method.')}={asked[key]}" for key in different[:_TOLD])
    return f"{method}, {told}" if told else f"{method}: {own[0].name}"
