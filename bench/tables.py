"""Writes the tables of docs/benchmarks.md, choosing.md and coverage.md anew, from the records in bench/results.

    python bench/tables.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; bench/NAME.py makes the records. Those of
`compare_NAME` are the results.json that `icycle compare` left. What is outside of these marks is left as it is.
"""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

from _common import RESULTS, Results

__all__ = ["PAGES", "refresh"]

_DOCS = Path(__file__).parent.parent / "docs"
PAGES = tuple(_DOCS / name for name in ("benchmarks.md", "choosing.md", "coverage.md", "export.md"))
_MADE_OF = {  # table -> the module that makes it, and the file in bench/results with its records
    "engine": ("engine", "engine"),
    "coverage": ("coverage", "engine"),
    "proof_cost": ("proof_cost", "proof_cost"),
    "pareto": ("pareto", "pareto"),
    "ice_parts": ("ice_parts", "ice_parts"),
    "compensation": ("compensation", "compensation"),
    "latency": ("latency", "latency"),
    "latency_accuracy": ("latency_accuracy", "latency_accuracy"),
    "speed_up": ("speed_up", "speed_up"),
    "exports": ("exports", "exports"),
    "step_overhead": ("step_overhead", "step_overhead"),
    "loop": ("loop", "loop"),
}
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    for page in PAGES:
        page.write_text(refresh(page.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")


def refresh(page: str, results: Path) -> str:
    """`page` with the table in every place replaced by what the records in the folder `results` say."""
    return _PLACE.sub(lambda place: f"{place[1]}{_table(place[2], results)}\n{place[3]}", page)


def _table(name: str, results: Path) -> str:
    if name.startswith("compare_"):
        return _comparison(results / f"{name}.json")
    if name.startswith("one_cycle_"):  # of several comparisons
        return str(importlib.import_module("one_cycle").TABLES[name](results)) + "\n"
    module, file = _MADE_OF[name]
    records = Results(results / f"{file}.jsonl").read()
    if not records:
        return f"Not measured yet: `python bench/{name}.py`.\n"
    return str(importlib.import_module(module).tables(records)) + "\n"


def _comparison(path: Path) -> str:
    from icycle.compare import kept_results, text

    return text(kept_results(path)) if path.is_file() else "Not measured yet.\n"


if __name__ == "__main__":
    main()
