"""A finished run, read back from its folder."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from icycle.errors import RecipeError
from icycle.runs import seconds_spent

__all__ = ["RunRecord", "read_run_record"]

_OF_AN_EPOCH = ("train", "evaluation")  # stages that dense training has too
_NEEDED = (
    "recipe method dense pruned removals validation_accuracy test_accuracy metric seconds environment details".split()
)
_COSTS = ("macs", "params", "latency")  # of the dense network and of the pruned one


@dataclass(frozen=True)
class RunRecord:
    """What a page is made of: the run's name, its report, its records in order, the recipe as text, and its folder."""

    name: str
    report: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]
    recipe: str
    folder: Path

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        """The records of one kind, in order."""
        return [record for record in self.records if record["kind"] == kind]

    # What was asked for.

    @property
    def settings(self) -> Mapping[str, Any]:
        """The recipe, every value spelled out."""
        return dict(self.report.get("settings") or {})

    @property
    def method(self) -> Mapping[str, Any]:
        """The method's settings."""
        return dict(self.settings.get("method") or {})

    @property
    def spares_memory(self) -> bool:
        """Was the budget one in memory, and does the report tell it?"""
        budget = self.method.get("budget") or {}
        named = any(budget.get(cost) is not None for cost in ("memory", "activation_bytes"))
        return named and "memory" in self.report["pruned"]

    @property
    def phases(self) -> Mapping[str, float]:
        """When a method that prunes within training searches and removes; times are shares of the run."""
        return dict(self.method.get("phases") or {})

    @property
    def weights(self) -> str | None:
        """The weights that the network began with: a path, or "pretrained"; None: fresh ones."""
        weights = (self.settings.get("model") or {}).get("weights")
        return None if weights is None else str(weights)

    @cached_property
    def origin(self) -> RunRecord | None:
        """The finished run that trained those weights, where it is found."""
        return None if self.weights in (None, "pretrained") else self._named(Path(str(self.weights)).parent)

    @cached_property
    def shape_of(self) -> RunRecord | None:
        """The finished run whose shape the network took, where it is found."""
        return None if self.method.get("of") is None else self._named(Path(self.method["of"]))

    def _named(self, folder: Path) -> RunRecord | None:
        """The run that the recipe names. A relative path was one from where the run was made: mostly from a folder
        above it, wherever these lie now."""
        for above in (*self.folder.parents, Path()):
            if (above / folder).resolve() != self.folder:
                with suppress(RecipeError):
                    return read_run_record(above / folder)
        return None

    @property
    def epochs(self) -> float:
        """How long was trained; early stopping may have ended it before its time."""
        return float(self.of_kind("epoch")[-1]["epoch"])

    @property
    def deadline(self) -> float | None:
        """The epoch by which the channels go at the latest, where the method has such a time; of those planned."""
        end = self.phases.get("sparsity_end")
        return None if end is None else end * float(self.of_kind("epoch")[-1].get("epochs", self.epochs))

    # What came of it.

    @property
    def reason(self) -> str | None:
        """Why the channels went when they did: "stable" or "deadline", where the method decided it."""
        return self.report["details"].get("why the removal came")

    @property
    def metric(self) -> str:
        """What the accuracies measure, with its unit where it has one."""
        return "accuracy (%)" if self.report["metric"] == "accuracy" else str(self.report["metric"])

    def metric_text(self, value: float) -> str:
        """A value of the metric as it is written."""
        return f"{value:.2f} %" if self.report["metric"] == "accuracy" else f"{value:.4g}"

    @property
    def higher_is_better(self) -> bool:
        return bool(self.report.get("higher_is_better", True))

    @property
    def test_metric(self) -> float:
        return float(self.report["test_accuracy"])

    @property
    def stepwise(self) -> bool:
        """Did the method remove step by step, from a network that was trained by then?"""
        return bool(self.of_kind("step"))

    @property
    def within_training(self) -> list[Mapping[str, Any]]:
        """The removals that have a moment of their own within the training run."""
        return [] if self.stepwise else list(self.report["removals"])

    @property
    def dense_metric(self) -> float | None:
        """The metric of the trained dense network on the validation split, where there was one."""
        removals = self.report["removals"]
        return float(removals[0]["accuracy_before"]) if self.stepwise and removals else None

    @property
    def seconds_spent(self) -> float:
        """What the run took, without what every run takes (see `icycle.runs.seconds_spent`)."""
        return seconds_spent(self.report["seconds"])

    @property
    def seconds_in_all(self) -> float:
        """With those of the run that trained the weights that it began with, where it is found."""
        return self.seconds_spent + (self.origin.seconds_in_all if self.origin else 0.0)

    @property
    def untold(self) -> str | None:
        """The weights whose training `seconds_in_all` leaves out, as nothing tells what it took."""
        return self.origin.untold if self.origin else self.weights

    def epoch_seconds(self, *, pruned: bool) -> float | None:
        """What an epoch took before (or after) all removals, with its evaluation; the median. None: there was none."""
        moments = [removal["epoch"] for removal in self.within_training]
        border = (max if pruned else min)(moments, default=float("inf"))
        # an epoch with a removal in it was trained with both networks
        own = [
            record
            for record in self.of_kind("epoch")
            if (record["epoch"] - 1 >= border if pruned else record["epoch"] <= border)
        ]
        spent = [sum(record.get("seconds", {}).get(stage, 0.0) for stage in _OF_AN_EPOCH) for record in own]
        return statistics.median(spent) if any(spent) else None

    def kept(self, cost: str) -> float:
        """The share, 0..1, of the dense network's cost ("macs", "params", "file_bytes", "memory") that is left."""
        return float(self.report["pruned"][cost] / max(self.report["dense"][cost], 1))

    def latency(self, size: str) -> float:
        """The pruned network's median, in milliseconds, at a batch size."""
        return float(self.report["pruned"]["latency"][size]["median"])

    @property
    def attempts(self) -> list[Mapping[str, float]]:
        """The sub-networks that were measured for a latency: milliseconds `predicted`, `measured` and `allowed`."""
        return [attempt for record in self.of_kind("latency") for attempt in record["attempts"]]

    @property
    def choices(self) -> dict[str, dict[str, Any]]:
        """Group -> the scores by which its channels last went (see `icycle.saliency.spread`) and the `cut` between what
        went and what stayed; front to back. Groups that lost none, or whose cut is not above zero, are left out."""
        last = {
            group["name"]: group
            for record in self.of_kind("saliency")
            for group in record["groups"]
            if group["removed"]
        }
        order = [group["name"] for group in self.report.get("groups", [])]
        known = [name for name in order if name in last] + [name for name in last if name not in order]
        cut = {name: {**last[name], "cut": _cut(last[name])} for name in known}
        return {name: group for name, group in cut.items() if group["cut"] > 0}


def _cut(group: Mapping[str, Any]) -> float:
    """Half-way between the best score that went and the worst that stayed."""
    ends = [*group["removed"][-1:], *group["kept"][:1]]
    return float(statistics.fmean(ends))


def _lacking(report: Any) -> Iterator[str]:
    """The dotted keys that every report has, and this one has not."""
    if not isinstance(report, dict):
        yield from _NEEDED
        return
    yield from (key for key in _NEEDED if key not in report)
    for network in ("dense", "pruned"):
        own = report.get(network)
        yield from (f"{network}.{key}" for key in _COSTS if not isinstance(own, dict) or key not in own)


def read_run_record(folder: Path) -> RunRecord:
    """The run in `folder`.

    Raises:
        RecipeError: it is no folder of a finished run, or what is in it cannot be read.
    """
    file = folder / "report.json"
    if (folder / "study.json").exists():
        raise RecipeError(
            f"Expected the folder of a run, but {folder} is that of a study; run the recipe that it tuned"
        )
    if not file.is_file() and any(folder.glob("*/recipe.yaml")):
        raise RecipeError(
            f"Expected the folder of a run, but {folder} holds folders of runs; give one of them, or compare them with "
            f"icycle report {shlex.quote(str(folder))}/*/"
        )
    if not file.is_file():
        raise RecipeError(
            f"Expected the folder of a finished run, but {folder} has no report.json; finish it with "
            f"icycle run --resume {shlex.quote(str(folder))}, or give another folder"
        )
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = tuple(json.loads(line) for line in lines)
        recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RecipeError(f"Expected a readable run in {folder}, but: {error}") from error
    lacks = list(_lacking(report))
    if lacks:
        raise RecipeError(
            f"Expected the report of a run in {file}, but it lacks {', '.join(lacks)}; give another folder"
        )
    if not all(isinstance(record, dict) and "kind" in record for record in records):
        raise RecipeError(f"Expected records of a kind each in {folder / 'metrics.jsonl'}, but it holds something else")
    place = folder.resolve()
    return RunRecord(place.name, report, records, recipe, place)
