"""A finished run, opened again: its data, the dense network and the pruned one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from icycle import artifacts
from icycle.errors import RecipeError
from icycle.recipes._folder import RunFolder
from icycle.recipes._run import _build, _context
from icycle.recipes._schema import Recipe
from icycle.report import read_run_record
from icycle.training import Recorder
from icycle.zoo import Data, is_weights_file

__all__ = ["FinishedRun", "is_run", "open_run"]


@dataclass(frozen=True)
class FinishedRun:
    """What a run left, and what it began with (the dense network with fresh weights)."""

    folder: RunFolder
    recipe: Recipe
    data: Data
    dense: nn.Module
    pruned: nn.Module
    report: Mapping[str, Any]


def is_run(path: Path) -> bool:
    """Whether there is a run's folder."""
    return RunFolder(path).recipe.is_file()


def open_run(path: Path) -> FinishedRun:
    """Read the finished run in the folder `path`; raises RecipeError where it is not finished, or cannot be read.

    Weights that the run began with are not read again, but for a saved model, which also tells the shapes.
    """
    folder = RunFolder(path)
    if not folder.report.is_file():
        raise RecipeError(f"Expected a finished run in {path}, but it has no report.json; {folder.command}")
    report, recipe = read_run_record(path).report, folder.saved_recipe()
    shaped = _without_values(recipe)
    context = _context(shaped, Recorder(), None)
    pruned = _build(shaped, context.data).eval()
    artifacts.load(folder.model, pruned)
    return FinishedRun(folder, recipe, context.data, context.model.eval(), pruned, report)


def _without_values(recipe: Recipe) -> Recipe:
    weights = recipe.model.weights
    if weights != "pretrained" and not (isinstance(weights, Path) and is_weights_file(weights)):
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": None})})
