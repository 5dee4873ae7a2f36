"""What a method reported, kept in the run's folder: with it a run goes on at its final measurements."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from icycle.errors import RecipeError
from icycle.files import write_whole
from icycle.methods import Effort, MethodResult, Removal
from icycle.training import Recorder

__all__ = ["read_result", "write_result"]


def write_result(result: MethodResult, path: Path, recorder: Recorder) -> None:
    """Keep a result, and the seconds that it took."""
    write_whole(path, json.dumps({"result": asdict(result), "seconds": recorder.clock.seconds()}))


def read_result(path: Path, recorder: Recorder) -> MethodResult:
    """The result in a file; its seconds are added to the recorder's clock.

    Raises:
        RecipeError: the file is damaged.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        values = kept["result"]
        values["removals"] = tuple(Removal(**removal) for removal in values["removals"])
        values["effort"] = None if values["effort"] is None else Effort(**values["effort"])
        result = MethodResult(**values)
        recorder.clock.add(kept["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"Expected the method's result in {path}, but it is damaged ({error}); remove it, and the run goes on from "
            "its last checkpoint"
        ) from error
    return result
