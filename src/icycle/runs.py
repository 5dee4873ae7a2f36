"""The runs of a folder, as a list; read without torch, so that it is there at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from icycle.errors import RecipeError

__all__ = ["RunEntry", "list_runs", "seconds_spent"]

State = Literal["finished", "running", "interrupted", "damaged"]
_SEAL = "recipe.sha256"  # only a run has it
_FILES = {"recipe.yaml", "metrics.jsonl"}  # as good as that together; each may also be a file of the user's own


def seconds_spent(stages: Mapping[str, float]) -> float:
    """All seconds but the rest, in which data was read, latency measured and files written: that is no method's."""
    return sum(seconds for stage, seconds in stages.items() if stage != "rest")


@dataclass(frozen=True)
class RunEntry:
    """One run. What is not known yet, or no longer, is None; a damaged run has the `problem` in words.

    `value` is that of the metric that decides: on the test set of a finished run, else on the validation split after
    the last epoch, step or removal; None where that was not judged. `seconds` of an unfinished run are those that its
    records tell.
    """

    path: Path
    state: State
    recipe: str | None = None
    method: str | None = None
    metric: str | None = None
    value: float | None = None
    macs: float | None = None  # share of the dense network's, 0..1
    latency: float | None = None  # milliseconds that one input takes
    speedup: float | None = None  # of that against the dense network, where the two clearly differ
    seconds: float | None = None  # spent, see `seconds_spent`
    problem: str | None = None


def list_runs(folder: Path) -> list[RunEntry]:
    """Every run in `folder` and below it, in the order of their names; `folder` itself may be one. What lies behind
    links counts, too, once.

    Raises:
        RecipeError: there is no such folder.
    """
    if not folder.is_dir():
        raise RecipeError(f"Expected a folder of runs, but there is none at {folder}; icycle run RECIPE makes runs/")
    return [_entry(path) for path in sorted(_run_folders(folder), key=_in_order)]


def _run_folders(folder: Path) -> Iterator[Path]:
    waiting, seen = [folder], set[str]()
    for start in waiting:  # it grows: what lies behind links comes last, so that a run has its own name where it can
        for path, below, files in os.walk(start):
            below[:] = [name for name in below if not name.startswith(".")]  # one that is being made
            own = os.path.realpath(path)
            if own in seen:
                below.clear()
                continue
            seen.add(own)
            if _SEAL in files or _FILES.issubset(files):
                below.clear()
                yield Path(path)
            waiting += [Path(path, name) for name in below if os.path.islink(os.path.join(path, name))]


def _in_order(path: Path) -> list[tuple[int, str]]:
    """mine-2 before mine-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _entry(path: Path) -> RunEntry:
    try:
        recipe = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8"))
        names = {"recipe": str(recipe["name"]), "method": str(recipe["method"]["name"])}
        records = _records(path / "metrics.jsonl")
        ended = bool(records) and records[-1]["kind"] == "end"
        if (path / "study.json").exists():
            return RunEntry(path, "finished" if ended else _unfinished_state(path), names["recipe"], "tune")
        if ended:
            return _finished(path, names, json.loads((path / "report.json").read_text(encoding="utf-8")))
        return _unfinished(path, names, records)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        return RunEntry(path, "damaged", problem=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _records(path: Path) -> list[Mapping[str, Any]]:
    """The records written so far; a line that is being written does not count yet."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _finished(path: Path, names: Mapping[str, Any], report: Mapping[str, Any]) -> RunEntry:
    dense, pruned = report["dense"], report["pruned"]
    return RunEntry(
        path,
        "finished",
        **names,
        metric=report["metric"],
        value=float(report["test_accuracy"]),
        macs=pruned["macs"] / dense["macs"],
        latency=float(pruned["latency"]["1"]["median"]),
        speedup=report.get("speedup", {}).get("1"),
        seconds=seconds_spent(report["seconds"]),
    )


def _unfinished(path: Path, names: Mapping[str, Any], records: list[Mapping[str, Any]]) -> RunEntry:
    costs = [record["macs_kept"] for record in records if record["kind"] in ("removal", "step")]
    judged = [_judged(record) for record in records if record["kind"] in ("epoch", "removal", "step")]
    value = judged[-1] if judged else None
    metrics = (record["metric"] for record in records if "metric" in record)  # the start names it
    spent = [_spent(record) for record in records if record["kind"] in ("epoch", "step", "cycle", "fine-tune")]
    return RunEntry(
        path,
        _unfinished_state(path),
        **names,
        metric=None if value is None else next(metrics, None),
        value=value,
        macs=costs[-1] if costs else None,
        seconds=sum(spent) if spent else None,
    )


def _judged(record: Mapping[str, Any]) -> float | None:
    """What the validation split said about the network that the record leaves; a step's answer is of before its
    fine-tune."""
    if record["kind"] == "epoch":
        return float(record["validation_accuracy"])
    if record["kind"] == "removal":
        return float(record["accuracy_after"])
    return None if record["fine_tuned"] else record["decision"]["accuracy"]


def _spent(record: Mapping[str, Any]) -> float:
    """The seconds that a record tells of. A step's hold those of its own fine-tune, or of a probe; the final fine-tune
    belongs to no step."""
    if record["kind"] == "fine-tune":
        return float(record["seconds"]) if record["reason"] == "final" else 0.0
    return seconds_spent(record.get("seconds", {}))  # steps did not always tell


def _unfinished_state(path: Path) -> State:
    return "running" if _is_locked(path / ".lock") else "interrupted"


def _is_locked(path: Path) -> bool:
    """Does a process work on the run?"""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written: nobody works on it
        return False
