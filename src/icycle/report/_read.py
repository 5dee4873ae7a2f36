"""A run's metrics, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icycle.errors import RecipeError
from icycle.files import whole_lines

if TYPE_CHECKING:
    import pandas

__all__ = ["read_run"]


def read_run(folder: str | Path) -> pandas.DataFrame:
    """The records of the run in `folder`, a row each, as a pandas frame; nested values have dotted names.

    A last line that was cut, as by the end of the process that wrote it, is left out.

    Raises:
        RecipeError: there is no run, a record cannot be read, or pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise RecipeError("Expected pandas to be installed, which read_run needs; run: pip install pandas") from error
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise RecipeError(f"Expected a run in {folder}, but it has no metrics.jsonl")
    records = [_record(path, number, line) for number, line in enumerate(whole_lines(path), start=1)]
    return pandas.json_normalize(records)


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise RecipeError(f"Expected a record in line {number} of {path}, but: {error}") from error
    if not isinstance(record, dict):
        raise RecipeError(f"Expected a record in line {number} of {path}, but got {line.strip()}")
    return record
