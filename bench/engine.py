"""The engine on every model of bench/zoo.txt, beside Torch-Pruning called as its README shows.

    pip install torch-pruning timm
    python bench/engine.py

For each model: the time and the memory it takes to find out what belongs together and to remove half of every group,
and what came of it. Every model has a process of its own for each engine, with a limit on time and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from _common import RESULTS, Record, Results, by_setting, command, machine, provenance, table

_HERE = Path(__file__).parent
ENGINES = ("icycle", "torch-pruning")
_START = 120.0  # seconds that importing the libraries and building a model may take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, RESULTS / "engine.jsonl")
    print(tables(measure_all(parser.parse_args(), zoo())))


def add_arguments(parser: argparse.ArgumentParser, out: Path) -> None:
    """What `measure_all` reads."""
    parser.add_argument("--models", nargs="+", help="torchvision/<name>, timm/<name> or one of bench/_architectures.py")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit, from the built model on")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="limit on resident memory")
    parser.add_argument("--out", type=Path, default=out, help="JSON lines; what is there already is skipped")


def measure_all(arguments: argparse.Namespace, models: Sequence[str]) -> list[Record]:
    """A record for each of the models (those that were asked for, else `models`) in each engine."""
    results, wanted = Results(arguments.out), []
    limits = {"seconds": arguments.seconds, "gigabytes": arguments.gigabytes}
    for model in arguments.models or models:
        for engine in arguments.engines:
            key = {"model": model, "engine": engine, "limits": limits}
            record = results.find(**key)
            if record is None:
                facts = limited([sys.executable, str(_HERE / "_engines.py"), engine, model], **limits)
                record = {"version": 1, **key, **facts, "machine": _place(engine), "command": command()}
                results.append(record)
            print(f"{model}, {engine}: {outcome(record)}", flush=True)
            wanted.append(record)
    return wanted


def zoo() -> list[str]:
    """The names in bench/zoo.txt."""
    lines = (_HERE / "zoo.txt").read_text(encoding="utf-8").splitlines()
    return ["/".join(line.split()) for line in lines if line.strip()]


def _place(engine: str) -> dict[str, str]:
    return machine() if engine == "icycle" else machine() | {engine: version(engine)}


# A process with limits


def limited(arguments: Sequence[str], *, seconds: float, gigabytes: float) -> dict[str, Any]:
    """What the process prints at last, as JSON; or how it came to its end, once its first line said that it was ready.

    Raises RuntimeError where it never got so far, which says nothing about any engine.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(arguments, stdout=output, stderr=errors)
        try:
            failure = _watch(process, output, seconds, gigabytes)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        errors.seek(0)
        lines = output.read().splitlines()
        last = (errors.read().strip().splitlines() or [""])[-1]
    if not lines:
        raise RuntimeError(f"Expected {list(arguments)} to start, but got {failure or process.returncode}: {last}")
    if failure:
        return {"status": failure}
    if process.returncode == 0 and lines[-1].startswith("{"):
        return dict(json.loads(lines[-1]))
    return {"status": "crash", "detail": f"exit status {process.returncode}: {last}"[:200]}


def _watch(process: subprocess.Popen[bytes], output: IO[str], seconds: float, gigabytes: float) -> str | None:
    """Wait for the end; which limit was passed, if any. The clock starts with the first line of output."""
    deadline, running = time.monotonic() + _START, False
    while process.poll() is None:
        if not running and os.fstat(output.fileno()).st_size:
            deadline, running = time.monotonic() + seconds, True
        if time.monotonic() > deadline:
            return "time limit"
        if _resident_bytes(process.pid) > 1e9 * gigabytes:
            return "memory limit"
        time.sleep(0.02)
    return None


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # it has just ended
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


# Tables


def tables(records: Sequence[Record]) -> str:
    """Markdown: what each engine achieved on the models of bench/zoo.txt, and a row for each."""
    listed = zoo()
    records = [record for record in records if record["model"] in listed]
    models = [group[-1]["model"] for group in by_setting(records, ("model",))]
    by_engine = {
        engine: {record["model"]: record for record in records if record["engine"] == engine} for engine in ENGINES
    }
    own, other = (by_engine[engine] for engine in ENGINES)
    parts = [
        *(_summary(engine, list(found.values())) for engine, found in by_engine.items() if found),
        table(
            (
                "model",
                "groups",
                "prunable MACs",
                "MACs kept",
                "trace (s)",
                "removal (s)",
                "memory (MB)",
                "removal error",
                "Torch-Pruning: group (s)",
                "removal (s)",
                "memory (MB)",
                "MACs kept",
                "outcome",
            ),
            [(model, *_own_cells(own.get(model)), *_other_cells(other.get(model))) for model in models],
        ),
        *(provenance(list(found.values())) for found in by_engine.values() if found),
    ]
    return "\n\n".join(parts)


def _own_cells(record: Record | None) -> list[str]:
    if record is None or record["status"] != "pruned":
        return [*["-"] * 6, outcome(record)]
    return [
        str(record["groups"]),
        f"{record['prunable_share']:.1%}",
        f"{record['macs_kept']:.1%}",
        *_effort(record),
        f"{record['removal_error']:.1e}",
    ]


def _other_cells(record: Record | None) -> list[str]:
    if record is None or "macs_kept" not in record:
        return [*["-"] * 4, outcome(record)]
    return [*_effort(record), f"{record['macs_kept']:.1%}", outcome(record)]


def _effort(record: Record) -> list[str]:
    memory = max(record["trace_megabytes"], record["removal_megabytes"])
    return [f"{record['trace_seconds']:.2f}", f"{record['removal_seconds']:.2f}", f"{memory:.0f}"]


def outcome(record: Record | None) -> str:
    """How it ended, in a word or two."""
    if record is None:
        return "-"
    error = record.get("detail", "").partition(":")[0] if record["status"] == "crash" else ""
    return record["status"] + (f" ({error})" if error else "")


def _summary(engine: str, records: list[Record]) -> str:
    outcomes = Counter(record["status"] for record in records)
    good = [record for record in records if record["status"] == "pruned"]
    text = f"- {engine}: {len(good)} of {len(records)} models pruned and run"
    rest = ", ".join(f"{count} {status}" for status, count in sorted(outcomes.items()) if status != "pruned")
    text += f" ({rest})" if rest else ""
    if not good:
        return text + "."
    seconds = {record["model"]: record["trace_seconds"] for record in good}
    memory = {record["model"]: max(record["trace_megabytes"], record["removal_megabytes"]) for record in good}
    slowest, largest = max(seconds, key=seconds.__getitem__), max(memory, key=memory.__getitem__)
    text += (
        f"; tracing takes {statistics.median(seconds.values()):.2f} s in the median and at most "
        f"{seconds[slowest]:.2f} s ({slowest}); extra memory at most {memory[largest]:.0f} MB ({largest})"
    )
    if engine == "icycle":
        exact = sum(record["cost_exact"] for record in good)
        worst = max(good, key=lambda record: record["removal_error"])
        text += (
            f"; MACs and parameters as predicted in {exact} of {len(good)}; removal error at most "
            f"{worst['removal_error']:.1e} ({worst['model']})"
        )
    return text + "."


if __name__ == "__main__":
    main()
