"""A tuned method as a recipe of its own."""

from __future__ import annotations

import shlex
from pathlib import Path

from icycle.files import write_whole
from icycle.recipes._load import dump_recipe
from icycle.recipes._schema import Recipe
from icycle.tuning import Outcome

__all__ = ["write_tuned"]


def write_tuned(recipe: Recipe, outcome: Outcome, path: Path) -> Recipe:
    """Write `recipe`, with the settings that were found, to `path`; returns it."""
    tuned = recipe.model_copy(update={"method": outcome.method})
    comment = "".join(f"# {line}\n" for line in (shlex.join(["icycle", "run", str(path)]), outcome.summary()))
    write_whole(path, comment + dump_recipe(tuned))
    return tuned
