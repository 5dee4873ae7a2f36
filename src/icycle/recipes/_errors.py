"""Every fault of a recipe in one message, each with the nearest valid key or name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from icycle.errors import RecipeError
from icycle.registry import did_you_mean
from icycle.training import Named

__all__ = ["recipe_error"]


def recipe_error(origin: str, schema: type[BaseModel], values: Any, error: ValidationError) -> RecipeError:
    """One error for all that pydantic found wrong with `values`, the recipe from `origin`."""
    faults = error.errors(include_url=False)
    lines = [f"  {line}" for line in (_line(schema, values, fault) for fault in faults)]
    count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
    return RecipeError("\n".join([f"Expected a valid recipe, but {origin} has {count}:", *lines]))


def _line(schema: type[BaseModel], values: Any, fault: ErrorDetails) -> str:
    path = [str(part) for part in fault["loc"]]
    where = ".".join(path)
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        model = _owner(schema, values, path[:-1])
        return f"{where}: unknown key; {did_you_mean(path[-1], model.model_fields if model else ())}"
    if kind == "missing":
        return f"{where}: a value is needed here"
    if kind == "name":
        return f"{where}: {context['words']}"
    if kind == "value_error":
        return f"{where}: {context['error']}"
    if kind == "literal_error":
        return f"{where}: expected {context['expected']}, but got {fault['input']!r}"
    return f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}, but got {fault['input']!r}"


def _owner(schema: type[BaseModel], values: Any, path: Sequence[str]) -> type[BaseModel] | None:
    """The settings class of the section at `path`."""
    owner: type[BaseModel] | None = schema
    for part in path:
        field = owner.model_fields.get(part) if owner else None
        values = values.get(part) if isinstance(values, dict) else None
        owner = _settings_class(field, values) if field else None
    return owner


def _settings_class(field: FieldInfo, value: Any) -> type[BaseModel] | None:
    """The class that a field's value is read into: the one that it names, or the first in the annotation."""
    named = next((mark for mark in field.metadata if isinstance(mark, Named)), None)
    if named is not None:
        return named.member(value)
    return next(_settings_classes(field.annotation), None)


def _settings_classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _settings_classes(part)
