"""A finished run, read back from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icycle.errors import RecipeError

__all__ = ["RunRecord", "read_run_record"]


@dataclass(frozen=True)
class RunRecord:
    """What a page is made of: the run's name, its report, its records in order, and the recipe as text."""

    name: str
    report: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]
    recipe: str

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        """The records of one kind, in order."""
        return [record for record in self.records if record["kind"] == kind]

    @property
    def metric(self) -> str:
        """What the accuracies measure, with its unit where it has one."""
        return "accuracy (%)" if self.report["metric"] == "accuracy" else str(self.report["metric"])

    def metric_text(self, value: float) -> str:
        """A value of the metric as it is written."""
        return f"{value:.2f} %" if self.report["metric"] == "accuracy" else f"{value:.4g}"

    @property
    def total_seconds(self) -> float:
        return sum(self.report["seconds"].values())

    def kept(self, cost: str) -> float:
        """The share, 0..1, of the dense network's cost ("macs", "params", "file_bytes") that is left."""
        return float(self.report["pruned"][cost] / max(self.report["dense"][cost], 1))


def read_run_record(folder: Path) -> RunRecord:
    """The run in `folder`.

    Raises:
        RecipeError: it is no folder of a finished run, or what is in it cannot be read.
    """
    file = folder / "report.json"
    if not file.is_file():
        raise RecipeError(
            f"Expected the folder of a finished run, but {folder} has no report.json; finish it with "
            f"icycle run --resume {folder}, or give another folder"
        )
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = tuple(json.loads(line) for line in lines)
        recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RecipeError(f"Expected a readable run in {folder}, but: {error}") from error
    return RunRecord(folder.resolve().name, report, records, recipe)
