"""Recipes: what a run may say, and its execution."""

from icycle.recipes._finished import FinishedRun, is_run, open_run
from icycle.recipes._folder import RunFolder, next_run
from icycle.recipes._load import bundled_recipes, dump_recipe, load_recipe
from icycle.recipes._run import run_recipe
from icycle.recipes._schema import DataSettings, ModelSettings, Recipe
from icycle.recipes._tune import saved_study, tune_recipe
from icycle.recipes._yaml import parse_yaml

__all__ = [
    "DataSettings",
    "FinishedRun",
    "ModelSettings",
    "Recipe",
    "RunFolder",
    "bundled_recipes",
    "dump_recipe",
    "is_run",
    "load_recipe",
    "next_run",
    "open_run",
    "parse_yaml",
    "run_recipe",
    "saved_study",
    "tune_recipe",
]
