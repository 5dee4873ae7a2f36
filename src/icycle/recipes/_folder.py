"""Run folders: where a run leaves what it made. A folder that exists is never overwritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from icycle.errors import RecipeError
from icycle.recipes._load import dump_recipe, load_recipe
from icycle.recipes._schema import Recipe
from icycle.training import completed_epochs

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
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    def create(self, recipe: Recipe) -> tuple[Path, ...]:
        """Make the folder and write the resolved recipe into it; returns the folders that it made, innermost first.

        Raises:
            RecipeError: the folder exists.
        """
        made = tuple(path for path in (self.path, *self.path.parents) if not path.exists())
        try:
            self.path.mkdir(parents=True)
        except FileExistsError as error:
            raise RecipeError(
                f"Expected a new run folder, but {self.path} exists and is never overwritten; choose another --output, "
                f"or go on with the run in it: icycle run --resume {self.path}"
            ) from error
        self.recipe.write_text(dump_recipe(recipe), encoding="utf-8")
        return made

    def discard(self, made: Sequence[Path]) -> None:
        """Remove what `create` made, and what a run that was refused has written since."""
        shutil.rmtree(self.path)
        for folder in made[1:]:
            if any(folder.iterdir()):  # another run has moved in
                break
            folder.rmdir()

    def saved_recipe(self) -> Recipe:
        """The recipe of the run in this folder.

        Raises:
            RecipeError: there is none, or it cannot be read.
        """
        if not self.recipe.is_file():
            raise RecipeError(f"Expected a run to resume in {self.path}, but it has no recipe.yaml")
        return load_recipe(str(self.recipe))

    def reopen(self, recipe: Recipe) -> tuple[Path, ...]:
        """Check that the unfinished run of `recipe` in this folder can go on; forget what it will do again. Returns
        the folders that it made: none.

        Raises:
            RecipeError: there is no run, it is finished, or it had other settings.
            TrainingError: its checkpoint is damaged.
        """
        earlier = self.saved_recipe().model_dump(warnings="none")
        if self.report.exists():
            raise RecipeError(f"Expected an unfinished run in {self.path}, but it has its report; start a new one")
        asked = recipe.model_dump(warnings="none")
        changed = sorted(key for key, value in asked.items() if earlier[key] != value)
        if changed:
            raise RecipeError(
                f"Expected the settings of the run in {self.path}, but these sections differ: {', '.join(changed)}; "
                "resume with nothing but --resume, or start a new run"
            )
        self._keep_metrics(completed_epochs(self.checkpoint))
        return ()

    def _keep_metrics(self, epochs: int) -> None:
        """Drop the records after the first `epochs` epochs: the run goes on from there, and writes them again."""
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True) if self.metrics.exists() else []
        kept: list[str] = []
        for line in lines:
            if epochs == 0:
                break
            kept.append(line)
            epochs -= json.loads(line)["kind"] == "epoch"
        self.metrics.write_text("".join(kept), encoding="utf-8")


def next_run(name: str, root: Path) -> RunFolder:
    """The first of `root`/`name`-1, `name`-2, ... that does not exist."""
    folders = (RunFolder(root / f"{name}-{number}") for number in count(1))
    return next(folder for folder in folders if not folder.path.exists())
