"""Run folders: where a run leaves what it made. A folder that exists is never overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from icycle.errors import RecipeError
from icycle.files import write_whole
from icycle.recipes._load import dump_recipe, load_recipe
from icycle.recipes._schema import Recipe
from icycle.training import saved_progress

__all__ = ["RunFolder", "next_run"]


@dataclass(frozen=True)
class RunFolder:
    """The places within a run's folder."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def tuned(self) -> Path:
        return self.path / "tuned.yaml"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    def create(self, recipe: Recipe) -> tuple[Path, ...]:
        """Make the folder, with the resolved recipe in it from its first moment on; returns the folders that it made,
        innermost first.

        Raises:
            RecipeError: the folder exists.
            OSError: it cannot be made.
        """
        if self.path.exists():
            raise RecipeError(
                f"Expected a new run folder, but {self.path} exists and is never overwritten; choose another --output, "
                f"or go on with the run in it: icycle run --resume {self.path}"
            )
        made = tuple(path for path in (self.path, *self.path.parents) if not path.exists())
        text = dump_recipe(recipe)
        fresh = RunFolder(self.path.with_name(f".{self.path.name}.{os.getpid()}"))
        try:
            fresh.path.mkdir(parents=True, exist_ok=True)
            write_whole(fresh.recipe, text)
            write_whole(fresh._seal, _digest(text))
            fresh.path.rename(self.path)  # refused where another run was faster
        except OSError as error:
            shutil.rmtree(fresh.path, ignore_errors=True)
            error.filename = str(self.path)  # the folder that was asked for
            raise
        return made

    def discard(self, made: Sequence[Path]) -> None:
        """Remove what `create` made, and what a run that was refused has written since."""
        shutil.rmtree(self.path)
        for folder in made[1:]:
            if any(folder.iterdir()):  # another run has moved in
                break
            folder.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within the block no other process can work on this run. A lock ends with its process, however that ends.

        Raises:
            RecipeError: another process works on it, there is no run, or the folder cannot be written.
        """
        self.saved_recipe()
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0.5)  # whoever only looks whether it is held does so for a moment
        except Timeout as error:
            raise RecipeError(
                f"Expected to be alone with the run in {self.path}, but another process works on it; wait for it, or "
                "end it first"
            ) from error
        except OSError as error:
            raise RecipeError(f"Expected to write to {self.path}, but it failed: {error}") from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def written(self) -> Iterator[None]:
        """A block that writes into the folder: what cannot be written is a RecipeError."""
        try:
            yield
        except OSError as error:
            raise RecipeError(
                f"Expected to write to the run folder {self.path}, but it failed: {error}; make room, then go on: "
                f"icycle run --resume {self.path}"
            ) from error

    def saved_recipe(self) -> Recipe:
        """The recipe of the run in this folder.

        Raises:
            RecipeError: there is none, or it cannot be read.
        """
        if not self.recipe.is_file():
            raise RecipeError(f"Expected a run to resume in {self.path}, but it has no recipe.yaml")
        return load_recipe(str(self.recipe))

    def reopen(self, recipe: Recipe) -> None:
        """Check that the unfinished run of `recipe` in this folder can go on; forget what it will do again.

        Raises:
            RecipeError: there is no run, it is finished, it had other settings, or its recipe was changed since.
            TrainingError: all of its checkpoints are damaged.
        """
        if self._seal.exists() and self._seal.read_text() != _digest(self.recipe.read_text(encoding="utf-8")):
            raise RecipeError(
                f"Expected {self.recipe} as the run wrote it, but it was changed; put it back, or start a new run"
            )
        earlier = self.saved_recipe().model_dump(warnings="none")
        if self.finished:
            raise RecipeError(f"Expected an unfinished run in {self.path}, but it has its report; start a new one")
        asked = recipe.model_dump(warnings="none")
        changed = sorted(key for key, value in asked.items() if earlier[key] != value)
        if changed:
            raise RecipeError(
                f"Expected the settings of the run in {self.path}, but these sections differ: {', '.join(changed)}; "
                "resume with nothing but --resume, or start a new run"
            )
        saved = saved_progress(self.checkpoint)
        self._keep_records(None if self.result.exists() else 0 if saved is None else saved.records)

    @property
    def finished(self) -> bool:
        """Has the run come to its end, the report and the page included?"""
        records = _whole_records(self.metrics)
        return self.report.exists() and bool(records) and json.loads(records[-1])["kind"] == "end"

    @property
    def _seal(self) -> Path:
        return self.path / "recipe.sha256"

    def _keep_records(self, count: int | None) -> None:
        """Drop the records after the first `count`: the run goes on from there, and writes them again. Of all (None)
        only one that was cut off is dropped."""
        with self.written():
            write_whole(self.metrics, "".join(_whole_records(self.metrics)[:count]))


def _whole_records(path: Path) -> list[str]:
    """The lines of a metrics file, but for one that was cut off at the end."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def next_run(name: str, root: Path) -> RunFolder:
    """The first of `root`/`name`-1, `name`-2, ... that does not exist."""
    folders = (RunFolder(root / f"{name}-{number}") for number in count(1))
    return next(folder for folder in folders if not folder.path.exists())
