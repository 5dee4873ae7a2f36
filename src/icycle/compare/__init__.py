"""Comparisons: many methods, many seeds, one recipe; paired differences, and what each costs."""

from icycle.compare._pictures import draw
from icycle.compare._plan import Entry, Run, make_plan
from icycle.compare._results import Result, provenance, read_result
from icycle.compare._run import run_plan
from icycle.compare._table import Row, interval, markdown, rows

__all__ = [
    "Entry",
    "Result",
    "Row",
    "Run",
    "draw",
    "interval",
    "make_plan",
    "markdown",
    "provenance",
    "read_result",
    "rows",
    "run_plan",
]
