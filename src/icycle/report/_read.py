"""A run's metrics, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icycle.errors import RecipeError

if TYPE_CHECKING:
    import pandas

__all__ = ["read_run"]


def read_run(folder: str | Path) -> pandas.DataFrame:
    """The records of the run in `folder`, a row each, as a pandas frame; nested values have dotted names.

    Raises:
        RecipeError: there is no run, or pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise RecipeError("Expected pandas to be installed, which read_run needs; run: pip install pandas") from error
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise RecipeError(f"Expected a run in {folder}, but it has no metrics.jsonl")
    records: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return pandas.json_normalize(records)
