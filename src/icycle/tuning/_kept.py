"""Finished trials in a file, a line each: a study that was cut off goes on with them, and none is done again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from icycle.errors import TuningError
from icycle.files import append_line, whole_lines, write_whole
from icycle.methods import Values

__all__ = ["Ending", "KeptTrials", "Trial"]

Ending = Literal[
    "kept the limit", "lost too much", "stopped: too slow", "failed: training broke down", "failed: split too small"
]


@dataclass(frozen=True)
class Trial:
    """One trial: its values, what it cost (in epochs of training), and the points of accuracy it lost."""

    number: int
    values: Values
    outcome: Ending
    cost: float | None
    drop: float | None
    seconds: float


class KeptTrials:
    """The finished trials of one worker, in their order.

    Args:
        path: a file of JSON lines, which need not be there yet; None: nothing is kept.

    Raises:
        TuningError: the file is damaged, or cannot be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.found = () if path is None else tuple(_read(path))

    def add(self, trial: Trial) -> None:
        """Keep one more; TuningError where that cannot be written."""
        if self._path is None:
            return
        try:
            append_line(self._path, json.dumps(asdict(trial)))
        except OSError as error:
            raise TuningError(
                f"Expected to keep a trial in {self._path}, but it failed: {error}; make room, then go on: those "
                "before it are kept"
            ) from error

    def answer(self, number: int, values: Values) -> Trial | None:
        """What the trial of this number came to, where it is kept.

        Raises:
            TuningError: it had other values, so that the rest of the study would be another one too.
        """
        if number >= len(self.found):
            return None
        kept = self.found[number]
        if not _same(kept.values, values):
            raise TuningError(
                f"Expected trial {number} to have the values that are kept in {self._path}, {dict(kept.values)}, but "
                f"this Optuna suggests {dict(values)}; go on with the version that began the study, or begin a new one"
            )
        return kept


def _read(path: Path) -> list[Trial]:
    if not path.exists():
        return []
    try:
        lines = whole_lines(path)
        write_whole(path, "".join(lines))  # without a line that was cut off, which the next one would continue
        return [Trial(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise TuningError(
            f"Expected finished trials in {path}, a line each, but it cannot be used: {error}; remove the file, and "
            "all trials are run again"
        ) from error


def _same(one: Values, other: Mapping[str, float]) -> bool:
    return one.keys() == other.keys() and all(math.isclose(one[name], other[name], rel_tol=1e-9) for name in one)
