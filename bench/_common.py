"""What the benchmarks share: results as JSON lines, the machine and its versions, fresh processes, and tables."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import re
import shlex
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

__all__ = [
    "RESULTS",
    "Record",
    "Results",
    "by_setting",
    "command",
    "in_fresh_process",
    "machine",
    "mean_and_deviation",
    "provenance",
    "table",
]

RESULTS = Path(__file__).parent / "results"

Record = Mapping[str, Any]

_VERSIONS = ("icycle", "torch", "torch-pruning", "python")


class Results:
    """Records of finished runs in a JSON-lines file; each is appended at once, so that a crash loses none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Record]:
        """All records, in the order in which they were made; none where there is no file."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.strip()]

    def append(self, record: Record) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def find(self, **values: Any) -> Record | None:
        """The last record that has all these values; tuples and lists are the same, as JSON knows only one."""
        wanted = json.loads(json.dumps(values))
        found = [record for record in self.read() if all(record.get(key) == value for key, value in wanted.items())]
        return found[-1] if found else None


def command() -> str:
    """The command line that was run."""
    return shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine() -> dict[str, str]:
    """Where and with what something was measured."""
    import torch

    import icycle

    return {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "icycle": icycle.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a new process, so that no run profits from what an earlier one has warmed up."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def by_setting(records: Iterable[Record], keys: Sequence[str]) -> list[list[Record]]:
    """Records that agree in all of `keys`, together; in the order in which each kind first came."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(json.dumps([record.get(key) for key in keys], sort_keys=True), []).append(record)
    return list(groups.values())


def mean_and_deviation(values: Sequence[float], form: str = ".2f") -> str:
    """`mean ± sample standard deviation`; the value alone where there is one, a dash where there is none."""
    if not values:
        return "-"
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown, padded so that it can be read as it is; all columns but the first are right-aligned."""
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(columns))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def provenance(records: Sequence[Record]) -> str:
    """The lines under a table: the command or commands, the machines, the versions and the number of runs."""
    lines = (re.sub(r" --out \S+", "", record["command"]) for record in records)  # a file that only its maker has
    commands = "; ".join(f"`{line}`" for line in dict.fromkeys(lines))
    places = Counter(_place(record["machine"]) for record in records)
    told = [place if len(places) == 1 else f"{place} ({count})" for place, count in places.items()]
    last = records[-1]["machine"]
    versions = ", ".join(f"{name} {last[name]}" for name in _VERSIONS if name in last)
    return f"{len(records)} runs of {commands}, on {' and on '.join(told)}; {versions}."


def _place(machine: Mapping[str, str]) -> str:
    accelerator = "" if machine["accelerator"] == "none" else f", {machine['accelerator']}"
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads{accelerator}"
