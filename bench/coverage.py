"""What icycle can remove from each model of bench/zoo.txt and beyond, beside Torch-Pruning; writes docs/coverage.md.

    pip install torch-pruning timm transformers
    python bench/coverage.py

Every model has a process of its own for each engine, with a limit on time and memory. Records are shared with
bench/engine.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from _architectures import ARCHITECTURES
from _common import RESULTS, Record, Results, by_setting, provenance, table
from engine import ENGINES, add_arguments, measure_all, outcome, zoo

__all__ = ["tables"]

_PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"
_ENOUGH = 0.8  # of a model's MACs; models with less are listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, RESULTS / "engine.jsonl")
    arguments = parser.parse_args()
    measure_all(arguments, [*zoo(), *ARCHITECTURES])
    from tables import refresh  # imports this file

    _PAGE.write_text(refresh(_PAGE.read_text(encoding="utf-8"), arguments.out.parent), encoding="utf-8")
    print(tables(Results(arguments.out).read()))


def tables(records: Sequence[Record]) -> str:
    """Markdown: a row per model, the models of which less can be removed, and where the figures come from."""
    models = [group[-1]["model"] for group in by_setting(records, ("model",))]
    own, other = ({record["model"]: record for record in records if record["engine"] == engine} for engine in ENGINES)
    columns = (
        "model",
        "prunable groups",
        "pinned",
        "prunable MACs",
        "heads",
        "trace (s)",
        "removal error",
        "Torch-Pruning",
    )
    rows = [(model, *_cells(own.get(model)), _other(other.get(model))) for model in models]
    return "\n\n".join(
        [
            _summary(list(own.values()), "icycle"),
            _summary(list(other.values()), "Torch-Pruning"),
            table(columns, rows),
            *_exceptions(own),
            *(provenance(list(found.values())) for found in (own, other) if found),
        ]
    )


def _cells(record: Record | None) -> list[str]:
    if record is None or record["status"] != "pruned":
        return [*["-"] * 5, outcome(record)]
    return [
        str(record["groups"]),
        str(record["pinned"]),
        f"{record['prunable_share']:.1%}",
        _heads(record),
        f"{record['trace_seconds']:.2f}",
        f"{record['removal_error']:.1e}",
    ]


def _heads(record: Record) -> str:
    return f"{record['own_heads']} of {record['attention_layers']}" if record["attention_layers"] else "none"


def _other(record: Record | None) -> str:
    if record is None or record["status"] != "pruned":
        return outcome(record)
    return f"{record['macs_kept']:.1%} of the MACs kept"


def _summary(records: list[Record], name: str) -> str:
    good = sum(record["status"] == "pruned" for record in records)
    return f"- {name}: {good} of {len(records)} models pruned and run."


def _exceptions(records: dict[str, Record]) -> list[str]:
    """The models in which less than four fifths of the MACs are prunable."""
    few = {
        model: record["prunable_share"]
        for model, record in records.items()
        if record["status"] == "pruned" and record["prunable_share"] < _ENOUGH
    }
    if not few:
        return []
    listed = ", ".join(f"{model} ({share:.1%})" for model, share in few.items())
    return [f"Less than {_ENOUGH:.0%} of the MACs are prunable in {listed}."]


if __name__ == "__main__":
    main()
