"""Recipes from YAML: bundled by name, or from a path, with single values overridden."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from icycle.errors import RecipeError
from icycle.recipes._errors import recipe_error
from icycle.recipes._schema import METHOD, Recipe
from icycle.recipes._yaml import dump_yaml, parse_yaml, read_text
from icycle.registry import did_you_mean, import_module
from icycle.training import Named

__all__ = ["bundled_recipes", "dump_recipe", "load_recipe"]


def bundled_recipes() -> dict[str, str]:
    """The recipes that come with icycle: name -> the first sentence of its comment."""
    found = {}
    for name, text in _bundled_texts():
        comment = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
        found[name] = comment[1] if len(comment) > 1 else ""
    return found


def load_recipe(name_or_path: str, overrides: Sequence[str] = (), *, imports: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        name_or_path: a bundled recipe's name, or the path of a YAML file.
        overrides: `a.b=value` each, the value as YAML. Choosing another `name` for the method, the task, the optimizer
            or the schedule drops what the file says about the old one, all but the budget of a method that has one. A
            value of a section that the file leaves out is one of the section's default.
        imports: modules to import, beside those that the recipe itself names.

    Raises:
        RecipeError: no such recipe, YAML that cannot be read, or faults in it, all of them in one message.
    """
    origin, text, name = _find(name_or_path)
    values = parse_yaml(text, origin)
    if not isinstance(values, dict):
        raise RecipeError(f"Expected keys and values in {origin}, but got {type(values).__name__}")
    values.setdefault("name", name)
    if imports:
        own = values.get("imports") or ()
        values["imports"] = list(dict.fromkeys((*(own if isinstance(own, list) else ()), *imports)))
    _import(values.get("imports"))
    _override(values, overrides)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise recipe_error(origin, Recipe, values, error) from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every value spelled out; `load_recipe` reads it back."""
    # No warnings: a settings class named by its import path holds a name that its own declaration does not.
    return dump_yaml(recipe.model_dump(mode="json", warnings="none"))


def _bundled_texts() -> Iterator[tuple[str, str]]:
    for entry in sorted(resources.files("icycle.recipes").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            yield entry.name.removesuffix(".yaml"), entry.read_text(encoding="utf-8")


def _find(name_or_path: str) -> tuple[str, str, str]:
    """Where a recipe is from, its text, and its name."""
    bundled = dict(_bundled_texts())
    if name_or_path in bundled:
        return f"recipe '{name_or_path}'", bundled[name_or_path], name_or_path
    path = Path(name_or_path)
    if path.is_file():
        return str(path), read_text(path), path.stem
    if path.suffix in (".yaml", ".yml") or path.parent != Path("."):
        raise RecipeError(f"Expected a recipe file, but there is none at {path}")
    near = did_you_mean(name_or_path, bundled)
    raise RecipeError(f"Expected a bundled recipe's name or a path, but got '{name_or_path}'; {near}")


def _import(modules: Any) -> None:
    """Import a recipe's modules before names are looked up; what fails is reported with all other faults."""
    for name in modules if isinstance(modules, list) else ():
        with suppress(RecipeError):
            import_module(str(name))


def _variants(schema: type[BaseModel], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], str | None]:
    """The sections whose `name` decides which keys they have -> the name of the default; None: there is none."""
    found = dict[tuple[str, ...], str | None]()
    for key, field in schema.model_fields.items():
        path = (*above, key)
        if any(isinstance(mark, Named) for mark in field.metadata):
            found[path] = None if field.is_required() else field.default.name
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= _variants(field.annotation, path)
    return found


_VARIANTS = _variants(Recipe)


def _override(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Write `a.b=value` pairs into nested `values`, names first, as they decide what else a section may hold."""
    pairs = [_pair(override) for override in overrides]
    for keys, value in sorted(pairs, key=lambda pair: pair[0][-1] != "name"):
        section = _section(values, keys)
        if keys[-1] == "name" and keys[:-1] in _VARIANTS and section.get("name") != value:
            _forget(section, keep=_budget_stays(value, pairs) if keys[0] == "method" else False)
        section[keys[-1]] = value


def _forget(section: dict[str, Any], keep: bool) -> None:
    """Empty the section of one variant for another; `keep` its budget."""
    kept = {"budget": section["budget"]} if keep and "budget" in section else {}
    section.clear()
    section.update(kept)


def _budget_stays(method: Any, pairs: Sequence[tuple[tuple[str, ...], Any]]) -> bool:
    """Does the method that is chosen have a budget, and do the overrides give no ratio in its place?"""
    found = METHOD.member({"name": method})
    instead = ("method", "ratio") in {keys for keys, _ in pairs}
    return found is not None and "budget" in found.model_fields and not instead


def _pair(override: str) -> tuple[tuple[str, ...], Any]:
    key, equals, value = override.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        raise RecipeError(f"Expected an override like train.epochs=3, but got '{override}'")
    return keys, parse_yaml(value, f"the override '{override}'")


def _section(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The mapping that holds the last of `keys`, made where the file does not have it, by the name of its default."""
    section = values
    for depth, key in enumerate(keys[:-1], start=1):
        default = _VARIANTS.get(keys[:depth])
        inner = section.setdefault(key, {} if default is None else {"name": default})
        if not isinstance(inner, dict):
            raise RecipeError(
                f"Expected {'.'.join(keys)} to name a value, but '{key}' is not a section: it is {inner!r}"
            )
        section = inner
    return section
