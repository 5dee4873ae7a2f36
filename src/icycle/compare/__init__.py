"""Comparisons: many methods, many seeds, one recipe; paired differences, and what each costs."""

from icycle.compare._pictures import draw, require_matplotlib
from icycle.compare._plan import Entry, Run, make_plan
from icycle.compare._results import (
    Failure,
    Kept,
    Outcome,
    Result,
    environments,
    keep_results,
    kept_results,
    written,
)
from icycle.compare._run import run_plan
from icycle.compare._table import Row, interval, markdown, rows, text

__all__ = [
    "Entry",
    "Failure",
    "Kept",
    "Outcome",
    "Result",
    "Row",
    "Run",
    "draw",
    "environments",
    "interval",
    "keep_results",
    "kept_results",
    "make_plan",
    "markdown",
    "require_matplotlib",
    "rows",
    "run_plan",
    "text",
    "written",
]
