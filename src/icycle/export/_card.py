"""A model card: README.md with Hugging Face's metadata, beside a pruned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from icycle.errors import ExportError

__all__ = ["Card", "license_on_card", "write_card"]

Row = tuple[str, str, str]

_FILES = ("README.md", "MODEL_CARD.md")
_LIBRARY = "icycle"  # by which a card is known
_LICENSE = "license: "
_ACCURACY = "accuracy"  # the metric that icycle tells in percent, and Hugging Face as a share


@dataclass(frozen=True)
class Card:
    """What a card says.

    `costs` and `latency` are rows of what, dense, pruned; `groups` of group, channels, channels kept. `measured` maps a
    split to its metrics by name; an accuracy is in percent. `license` is an identifier of Hugging Face's list
    ("apache-2.0"), `other` where none was given. `task` is one, too ("image-classification"); without it the metrics
    are told in words alone, as the Hub takes none without a task.
    """

    name: str
    network: str
    data: str
    method: str
    costs: Sequence[Row]
    measured: Mapping[str, Mapping[str, float]]
    groups: Sequence[Row]
    recipe: str
    seed: int
    latency: Sequence[Row] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[str] = ()
    license: str = "other"
    task: str | None = None

    def __str__(self) -> str:
        metadata: dict[str, object] = {
            "license": self.license,
            "library_name": _LIBRARY,
            "tags": ["pytorch", "pruning", "structured-pruning", self.method],
            "datasets": [self.data],
        }
        if self.task is not None:
            results = [self._result(*item) for item in self.measured.items()]
            metadata["model-index"] = [{"name": self.name, "results": results}]
        parts = [
            f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
            f"# {self.name}",
            f"{self.network}, trained on {self.data} and pruned by icycle ({self.method}).",
            "## What it costs\n\n" + _table(("", "dense", "pruned"), [*self.costs, *self.latency]),
            "## Metrics\n\n" + _table(("split", "metric", "value"), self._values()),
            "## What was removed\n\n" + _table(("group", "channels", "kept"), self.groups),
            f"## How it was made\n\nSeed {self.seed}, by this recipe:\n\n```yaml\n{self.recipe.strip()}\n```",
            _table(("", "version"), list(self.versions.items())),
        ]
        if self.files:
            parts.append("## Files\n\n" + "\n".join(f"- `{file}`" for file in self.files))
        return "\n\n".join(parts) + "\n"

    def _values(self) -> list[Row]:
        return [
            (split, metric, f"{value:.2f} %" if metric == _ACCURACY else f"{value:.4g}")
            for split, metrics in self.measured.items()
            for metric, value in metrics.items()
        ]

    def _result(self, split: str, metrics: Mapping[str, float]) -> dict[str, object]:
        return {
            "task": {"type": self.task},
            "dataset": {"name": self.data, "type": self.data, "split": split},
            "metrics": [
                {"type": metric, "value": round(value / 100, 4) if metric == _ACCURACY else value}
                for metric, value in metrics.items()
            ],
        }


def write_card(card: Card, folder: Path) -> Path:
    """Write README.md into `folder`, in place of an earlier card; MODEL_CARD.md where another README.md is there.

    Raises ExportError where neither is a card.
    """
    files = [folder / name for name in _FILES]
    file = next((file for file in files if not file.exists() or _is_card(_text(file))), None)
    if file is None:
        raise ExportError(
            f"Expected a place for the model card in {folder}, but {' and '.join(_FILES)} are there and are none of "
            "icycle's; rename one, or export to another folder."
        )
    file.write_text(str(card), encoding="utf-8")
    return file


def license_on_card(folder: Path, name: str) -> str | None:
    """The licence on the card of the network `name` in `folder`; None where there is no such card."""
    texts = [_text(folder / file) for file in _FILES if (folder / file).exists()]
    cards = [text for text in texts if _is_card(text) and f"\n# {name}\n" in text]
    lines = cards[0].split("\n---\n")[0].splitlines() if cards else []
    return next((line.removeprefix(_LICENSE) for line in lines if line.startswith(_LICENSE)), None)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _is_card(text: str) -> bool:
    metadata = text.split("\n---\n")[0]
    return metadata.startswith("---\n") and f"library_name: {_LIBRARY}" in metadata.splitlines()


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
