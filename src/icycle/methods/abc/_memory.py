"""What is known about shapes, in a folder: for a search that goes on, and for many that share it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from icycle.errors import TrainingError
from icycle.files import write_whole
from icycle.methods.abc._colony import Counts
from icycle.training import on_first

__all__ = ["Memory"]


class Memory:
    """Remembers what shapes are worth; in a `folder`, if there is one, a file for each, written whole or not at all.

    Workers share a folder; each has a number of its own. A search that is begun anew does what it did before, but finds
    what it tried in its memory: it goes on where it was. Of processes that train together the first reads and writes.
    """

    def __init__(self, folder: Path | None = None, worker: int = 0) -> None:
        self._folder = folder
        self._worker = worker
        self._known: dict[Counts, float] = {}
        self.tried = 0  # shapes, by this search
        if folder is not None:
            on_first(lambda: folder.mkdir(parents=True, exist_ok=True))

    def recall(self, counts: Counts) -> float | None:
        """What is known about a shape, by whomever."""
        return on_first(lambda: self._found(counts))

    def _found(self, counts: Counts) -> float | None:
        if counts not in self._known and self._folder is not None:
            for path in self._folder.glob(f"{_key(counts)}-*.json"):
                self._known[counts] = _read(path)[1]
        return self._known.get(counts)

    def keep(self, counts: Counts, points: float) -> None:
        """Remember a shape that was tried."""
        self._known[counts] = points
        self.tried += 1
        if self._folder is not None:
            path = self._folder / f"{_key(counts)}-{self._worker}.json"
            on_first(lambda: write_whole(path, json.dumps({"counts": counts, "points": points})))

    def best(self) -> tuple[Counts, float]:
        """The best shape that anybody has tried; of equals the first in the order of their counts."""
        return on_first(self._best)

    def _best(self) -> tuple[Counts, float]:
        known = dict(self._known)
        if self._folder is not None:
            known.update(map(_read, self._folder.glob("*-*.json")))
        return min(known.items(), key=lambda entry: (-entry[1], entry[0]))


def _key(counts: Counts) -> str:
    return hashlib.sha256(repr(counts).encode()).hexdigest()[:24]


def _read(path: Path) -> tuple[Counts, float]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return tuple(map(int, content["counts"])), float(content["points"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"Expected what a search knows about a shape in {path}, but it cannot be read: {error}; remove the file, "
            "and the shape is tried again"
        ) from error
