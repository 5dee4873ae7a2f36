"""A model card: README.md with Hugging Face's metadata, beside a pruned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

__all__ = ["Card", "write_card"]

Row = tuple[str, str, str]  # what, dense, pruned


@dataclass(frozen=True)
class Card:
    """What a card says.

    `costs` and `latency` are rows of what, dense, pruned; `groups` of group, channels, channels kept. `accuracy` maps a
    split to percent. `license` is an identifier of Hugging Face's list ("apache-2.0"), `other` where none was given.
    """

    name: str
    network: str
    data: str
    method: str
    costs: Sequence[Row]
    accuracy: Mapping[str, float]
    groups: Sequence[Row]
    recipe: str
    seed: int
    latency: Sequence[Row] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[str] = ()
    license: str = "other"

    def __str__(self) -> str:
        metadata = {
            "license": self.license,
            "library_name": "icycle",
            "tags": ["pytorch", "pruning", "structured-pruning", self.method],
            "datasets": [self.data],
            "model-index": [{"name": self.name, "results": [self._result(*item) for item in self.accuracy.items()]}],
        }
        parts = [
            f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
            f"# {self.name}",
            f"{self.network}, trained on {self.data} and pruned by icycle ({self.method}).",
            "## What it costs\n\n" + _table(("", "dense", "pruned"), [*self.costs, *self.latency]),
            "## Accuracy\n\n" + _table(("split", "percent"), [(k, f"{v:.2f}") for k, v in self.accuracy.items()]),
            "## What was removed\n\n" + _table(("group", "channels", "kept"), self.groups),
            f"## How it was made\n\nSeed {self.seed}, by this recipe:\n\n```yaml\n{self.recipe.strip()}\n```",
            _table(("", "version"), list(self.versions.items())),
        ]
        if self.files:
            parts.append("## Files\n\n" + "\n".join(f"- `{file}`" for file in self.files))
        return "\n\n".join(parts) + "\n"

    def _result(self, split: str, percent: float) -> dict[str, object]:
        return {
            "task": {"type": "image-classification"},
            "dataset": {"name": self.data, "type": self.data, "split": split},
            "metrics": [{"type": "accuracy", "value": round(percent / 100, 4)}],
        }


def write_card(card: Card, folder: Path) -> Path:
    """Write README.md into `folder`; one that is there already is replaced."""
    file = folder / "README.md"
    file.write_text(str(card), encoding="utf-8")
    return file


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
