"""Every model of bench/zoo.txt in ONNX Runtime, OpenVINO and torch.export, whole and with half of every group removed.

    pip install 'icycle[export]' timm
    python bench/exports.py            # resumable; --table prints what there is

Each has a process of its own, with a limit on time and memory. Differences are the largest of any output from torch's
on random images, for two batch sizes, as a share of the largest output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _common import RESULTS, Record, Results, machine, provenance, table
from _exports import RUNTIMES
from engine import limited, zoo

__all__ = ["tables"]

_HERE = Path(__file__).parent
_FORMS = ("dense", "pruned")
_CLOSE = 1e-4  # what counts as agreement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", help="torchvision/<name> or timm/<name>; all of bench/zoo.txt if omitted"
    )
    parser.add_argument("--seconds", type=float, default=200.0, help="time limit, from the built model on")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="limit on resident memory")
    parser.add_argument("--out", type=Path, default=RESULTS / "exports.jsonl", help="what is there already is skipped")
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    options = parser.parse_args()
    results = Results(options.out)
    for model in [] if options.table else options.models or zoo():
        for form in _FORMS:
            if results.find(model=model, form=form) is None:
                found = limited(
                    [sys.executable, str(_HERE / "_exports.py"), model, form],
                    seconds=options.seconds,
                    gigabytes=options.gigabytes,
                )
                place = {"machine": _place(), "command": "python bench/exports.py"}
                results.append({"model": model, "form": form, **found, **place})
                print(model, form, *_cells(found), flush=True)
    print(tables(results.read()))


def _place() -> dict[str, str]:
    return machine() | {package: version(package) for package in ("onnxruntime", "openvino")}


def tables(records: Sequence[Record]) -> str:
    """Markdown: how many agree, a row per model, and in words what does not."""
    found = {(record["model"], record["form"]): record for record in records}
    latest = {(model, form): found[model, form] for model in zoo() for form in _FORMS if (model, form) in found}
    models = list(dict.fromkeys(model for model, _ in latest))
    columns = ["model", *(f"{runtime}, {form}" for form in _FORMS for runtime in RUNTIMES)]
    rows = [[model, *(cell for form in _FORMS for cell in _cells(latest.get((model, form))))] for model in models]
    return "\n\n".join(
        [*_summary(latest, len(models)), table(columns, rows), *_failures(latest), provenance(list(latest.values()))]
    )


def _cells(record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return ["-"] * len(RUNTIMES)
    return [_cell(record.get(runtime), record.get("status", "-")) for runtime in RUNTIMES]


def _cell(found: Mapping[str, Any] | None, status: str) -> str:
    if found is None:
        return str(status)
    return f"{found['difference']:.1e}" if "difference" in found else "none"


def _agrees(record: Record | None, runtime: str) -> bool:
    found = (record or {}).get(runtime) or {}
    return bool(found.get("difference", 1.0) <= _CLOSE)


def _summary(latest: Mapping[tuple[str, str], Record], models: int) -> list[str]:
    parts = (
        f"{sum(_agrees(record, runtime) for (_, own), record in latest.items() if own == form)} {form} in {runtime}"
        for form in _FORMS
        for runtime in RUNTIMES
    )
    return [
        f"Of {models} models, so many agree with torch within {_CLOSE:g} of the largest output: {', '.join(parts)}."
    ]


def _failures(latest: Mapping[tuple[str, str], Record]) -> list[str]:
    """One line for each that does not agree."""
    lines = []
    for (model, form), record in latest.items():
        for runtime in RUNTIMES:
            if not _agrees(record, runtime):
                found = record.get(runtime) or {"error": f"{record.get('status')}: {record.get('detail', '')}"}
                words = found.get("error") or f"differs by {found['difference']:.1e}"
                words += f"; torch itself, from double precision, by {record['torch']:.1e}" if "torch" in record else ""
                lines.append(f"- {model}, {form}, {runtime}: {' '.join(words.split())}")
    return ["Not in agreement:\n\n" + "\n".join(lines)] if lines else []


if __name__ == "__main__":
    main()
