"""Run folders: where a run leaves what it made. A folder that exists is never overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from icycle.errors import RecipeError
from icycle.files import whole_lines, write_whole
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
    def trials(self) -> Path:
        return self.path / "trials.jsonl"

    @property
    def study(self) -> Path:
        """In the folder of `icycle tune`: its own settings."""
        return self.path / "study.json"

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

    def create(self, recipe: Recipe, study: str | None = None) -> tuple[Path, ...]:
        """Make the folder, with the resolved recipe in it (and the settings of a `study`) from its first moment on;
        returns the folders that it made, innermost first.

        Raises:
            RecipeError: the folder exists.
            OSError: it cannot be made.
        """
        if self.path.exists():
            instead = f", or go on with the run in it: {self.command}" if self.recipe.exists() else ""
            raise RecipeError(
                f"Expected a new run folder, but {self.path} exists and is never overwritten; choose another{instead}"
            )
        made = tuple(path for path in (self.path, *self.path.parents) if not path.exists())
        text = dump_recipe(recipe)
        fresh = RunFolder(self.path.with_name(f".{self.path.name}.{os.getpid()}"))
        try:
            fresh.path.mkdir(parents=True, exist_ok=True)
            write_whole(fresh.recipe, text)
            if study is not None:
                write_whole(fresh.study, study)
            write_whole(fresh._seal, fresh._digest())
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
                f"{self.command}"
            ) from error

    def saved_recipe(self) -> Recipe:
        """The recipe of the run in this folder.

        Raises:
            RecipeError: there is none, or it cannot be read.
        """
        if not self.recipe.is_file():
            found = "it has no recipe.yaml" if self.path.is_dir() else "there is no such folder"
            raise RecipeError(
                f"Expected a run to resume in {self.path}, but {found}; `icycle runs FOLDER` lists those in a folder"
            )
        return load_recipe(str(self.recipe))

    def reopen(self, recipe: Recipe, study: str | None = None) -> None:
        """Check that the unfinished run of `recipe` in this folder (or the `study`) can go on; forget what it will do
        again.

        Raises:
            RecipeError: there is no run, it is finished, it had other settings, or its recipe was changed since; or it
                is a study and should be a run, or the other way round.
            TrainingError: all of its checkpoints are damaged.
        """
        if (study is not None) != self.study.exists():
            raise RecipeError(f"Expected a {'run' if study is None else 'study'} in {self.path}, but: {self.command}")
        if self._seal.exists() and self._seal.read_text() != self._digest():
            written = f"{self.recipe} and {self.study.name}" if self.study.exists() else str(self.recipe)
            raise RecipeError(
                f"Expected {written} as the run wrote it, but it was changed; put it back, or start a new run"
            )
        earlier = self.saved_recipe().model_dump(warnings="none")
        if self.finished:
            raise RecipeError(f"Expected an unfinished run in {self.path}, but it came to its end; start a new one")
        asked = recipe.model_dump(warnings="none")
        changed = sorted(key for key, value in asked.items() if earlier[key] != value)
        changed += ["the study"] if study is not None and study != self.study.read_text(encoding="utf-8") else []
        if changed:
            raise RecipeError(
                f"Expected the settings of the run in {self.path}, but these sections differ: {', '.join(changed)}; "
                "resume with nothing but --resume, or start a new run"
            )
        saved = saved_progress(self.checkpoint)
        self._keep_records(None if self.result.exists() else 0 if saved is None else saved.records)

    @property
    def finished(self) -> bool:
        """Has the run come to its end, the report and the page (or the tuned recipe of a study) included?"""
        records, result = whole_lines(self.metrics), self.tuned if self.study.exists() else self.report
        return result.exists() and bool(records) and json.loads(records[-1])["kind"] == "end"

    @property
    def command(self) -> str:
        """What goes on with what is in the folder; a shell takes it as it is."""
        return shlex.join(["icycle", "tune" if self.study.exists() else "run", "--resume", str(self.path)])

    @property
    def _seal(self) -> Path:
        return self.path / "recipe.sha256"

    def _digest(self) -> str:
        """Of all settings in the folder."""
        texts = [path.read_bytes() for path in (self.recipe, self.study) if path.exists()]
        return hashlib.sha256(b"".join(texts)).hexdigest()

    def _keep_records(self, count: int | None) -> None:
        """Drop the records after the first `count`: the run goes on from there, and writes them again. Of all (None)
        only one that was cut off is dropped."""
        with self.written():
            write_whole(self.metrics, "".join(whole_lines(self.metrics)[:count]))


def next_run(name: str, root: Path) -> RunFolder:
    """The first of `root`/`name`-1, `name`-2, ... that does not exist."""
    folders = (RunFolder(root / f"{name}-{number}") for number in count(1))
    return next(folder for folder in folders if not folder.path.exists())
