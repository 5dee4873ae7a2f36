"""What happens during a run, as records: kept in memory, appended to a JSON-lines file, shown live."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icycle.errors import TrainingError
from icycle.training._clock import StageClock

__all__ = ["Listener", "Record", "Recorder"]

Record = Mapping[str, Any]
Listener = Callable[[Record], None]


class Recorder:
    """Collects the records of one run and owns its clock.

    Args:
        path: a JSON-lines file that every record is appended to at once; none when omitted.
        listeners: called with every record, e.g. a progress display.
    """

    def __init__(self, path: Path | None = None, listeners: Sequence[Listener] = ()) -> None:
        self.clock = StageClock()
        self.records: list[Record] = []
        self._path = path
        self.written = _lines(path)  # lines in the file, those of an interrupted part of the run too
        self._listeners = tuple(listeners)

    def write(self, kind: str, **values: Any) -> None:
        """Record what happened. `values` must be JSON values.

        Raises:
            TrainingError: the file cannot be written.
        """
        record = {"kind": kind, **values}
        self.records.append(record)
        if self._path is not None:
            _append(self._path, json.dumps(record) + "\n")
            self.written += 1
        for listener in self._listeners:
            listener(record)


def _lines(path: Path | None) -> int:
    return 0 if path is None or not path.is_file() else path.read_bytes().count(b"\n")


def _append(path: Path, line: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise TrainingError(
            f"Expected to write a record to {path}, but it failed: {error}; make room, then go on with the run from "
            f"its last checkpoint (icycle run --resume {path.parent}), or begin it anew where that is gone"
        ) from error
