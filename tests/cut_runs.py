"""Runs that are cut off on purpose, and what of their end an interruption must not change."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icycle.errors import RunInterruptedError
from icycle.recipes import Recipe, RunFolder, run_recipe
from icycle.training import Record, Trainer

__all__ = [
    "CutError",
    "Steps",
    "ask_to_stop",
    "at",
    "cut",
    "interrupt",
    "no_space",
    "records",
    "steady",
    "stopped_and_resumed",
    "weights",
]


class CutError(Exception):
    """The process ends here."""


def records(folder: RunFolder, *kinds: str) -> list[Record]:
    """Those of these kinds, or all."""
    written = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [record for record in written if not kinds or record["kind"] in kinds]


def weights(folder: RunFolder) -> bytes:
    return (folder.model / "model.safetensors").read_bytes()


def steady(record: Record) -> Any:
    """What of a record does not depend on the time."""
    return {key: value for key, value in record.items() if key not in ("seconds",)}


def at(kind: str, number: int, action: Callable[[], Any]) -> Callable[[Record], None]:
    """Listens, and acts at the record of this kind and number, from 1."""
    seen = 0

    def listen(record: Record) -> None:
        nonlocal seen
        seen += record["kind"] == kind
        if record["kind"] == kind and seen == number:
            action()

    return listen


def cut() -> None:
    raise CutError


def interrupt() -> None:
    raise KeyboardInterrupt


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


class Steps:
    """Counts the steps of training, and acts after the one of this number, from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int = 0, action: Callable[[], Any] = cut) -> None:
        self.count, step = 0, Trainer._train_step

        def counted(trainer: Trainer, batch: Any) -> Any:
            loss = step(trainer, batch)
            self.count += 1
            if self.count == number:
                action()
            return loss

        monkeypatch.setattr(Trainer, "_train_step", counted)


def no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def stopped_and_resumed(recipe: Recipe, place: Path, due: Callable[[Record], bool]) -> tuple[RunFolder, RunFolder]:
    """A whole run; and one that was asked to stop at the first record that is `due`, and went on."""
    whole, stopped = RunFolder(place / "whole"), RunFolder(place / "cut")
    run_recipe(recipe, whole)
    with pytest.raises(RunInterruptedError, match="SIGUSR1"):
        run_recipe(recipe, stopped, listeners=[lambda record: ask_to_stop() if due(record) else None])
    run_recipe(recipe, stopped, resume=True)
    return whole, stopped
