"""A finished run, opened again: its data, the dense network and the pruned one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from icycle import artifacts
from icycle.errors import RecipeError
from icycle.recipes._folder import RunFolder
from icycle.recipes._run import _build, _context
from icycle.recipes._schema import Recipe
from icycle.training import Recorder
from icycle.zoo import Data

__all__ = ["FinishedRun", "is_run", "open_run"]


@dataclass(frozen=True)
class FinishedRun:
    """What a run left, and what it began with (the dense network with fresh weights)."""

    folder: RunFolder
    recipe: Recipe
    data: Data
    dense: nn.Module
    pruned: nn.Module
    report: dict[str, Any]


def is_run(path: Path) -> bool:
    """Whether there is a run's folder."""
    return RunFolder(path).recipe.is_file()


def open_run(path: Path) -> FinishedRun:
    """Read the finished run in the folder `path`; raises RecipeError where it is not finished."""
    folder = RunFolder(path)
    if not folder.report.is_file():
        raise RecipeError(f"Expected a finished run in {path}, but it has no report.json; {folder.command}")
    recipe = folder.saved_recipe()
    context = _context(recipe, Recorder(), None)
    pruned = _build(recipe, context.data).eval()
    artifacts.load(folder.model, pruned)
    report = json.loads(folder.report.read_text(encoding="utf-8"))
    return FinishedRun(folder, recipe, context.data, context.model.eval(), pruned, report)
