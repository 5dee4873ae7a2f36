"""Measured times on disk, one file for each way of measuring: device, threads, precision, versions."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Cache", "cache_folder"]

_VERSION = 3  # of how operations are measured, too


def cache_folder() -> Path:
    """Where measurements are kept: $ICYCLE_CACHE, or icycle in the user's cache folder."""
    own = os.environ.get("ICYCLE_CACHE")
    if own:
        return Path(own) / "latency"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icycle" / "latency"


class Cache:
    """Seconds by (key of a call, sizes), as measured under `conditions`; what cannot be read is measured again."""

    def __init__(self, folder: Path, conditions: Mapping[str, str]) -> None:
        self._conditions = dict(sorted(conditions.items()))
        digest = hashlib.sha256(json.dumps(self._conditions).encode()).hexdigest()[:16]
        self.file = folder / f"{digest}.json"
        self._seconds = self._read()

    def get(self, key: str, sizes: tuple[int, ...]) -> float | None:
        return self._seconds.get(_entry(key, sizes))

    def put(self, key: str, sizes: tuple[int, ...], seconds: float) -> None:
        self._seconds[_entry(key, sizes)] = seconds

    def write(self) -> None:
        """Write what is known, and what other processes have written meanwhile; the file is replaced as a whole."""
        self._seconds = {**self._read(), **self._seconds}
        record = {"version": _VERSION, "conditions": self._conditions, "seconds": self._seconds}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.file.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(record, stream)
            os.replace(name, self.file)
        except OSError:  # a read-only home or a full disk: nothing is kept, and nothing is lost but time
            return

    def _read(self) -> dict[str, float]:
        try:
            record = json.loads(self.file.read_text(encoding="utf-8"))
            if record["version"] != _VERSION or record["conditions"] != self._conditions:
                return {}
            return {str(key): float(value) for key, value in record["seconds"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _entry(key: str, sizes: tuple[int, ...]) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()[:20]
    return f"{digest}:{','.join(map(str, sizes))}"
