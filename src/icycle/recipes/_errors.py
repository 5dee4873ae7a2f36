"""Every fault of a recipe in one message, each with the nearest valid key or name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from icycle.errors import RecipeError
from icycle.registry import did_you_mean
from icycle.training import Named

__all__ = ["recipe_error"]


Section = type[Any]  # the settings of a section: a pydantic model, or a dataclass


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
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: unknown key; {did_you_mean(path[-1], _keys(_owner(schema, values, path[:-1])))}"
    if kind == "missing":
        return f"{where}: a value is needed here"
    if kind == "name":
        return f"{where}: {context['words']}"
    if kind == "value_error":
        return f"{where}: {context['error']}" if where else str(context["error"])
    if kind == "literal_error":
        return f"{where}: expected {context['expected']}, but got {fault['input']!r}"
    return f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}, but got {fault['input']!r}"


def _keys(section: Section | None) -> list[str]:
    if section is None:
        return []
    return list(section.model_fields) if issubclass(section, BaseModel) else [field.name for field in fields(section)]


def _owner(schema: type[BaseModel], values: Any, path: Sequence[str]) -> Section | None:
    """The settings class of the section at `path`."""
    owner: Section | None = schema
    for part in path:
        field = owner.model_fields.get(part) if owner and issubclass(owner, BaseModel) else None
        values = values.get(part) if isinstance(values, dict) else None
        owner = _settings_class(field, values) if field else None
    return owner


def _settings_class(field: FieldInfo, value: Any) -> Section | None:
    """The class that a field's value is read into: the one that it names, or the first in the annotation."""
    named = next((mark for mark in field.metadata if isinstance(mark, Named)), None)
    if named is not None:
        return named.member(value)
    return next(_settings_classes(field.annotation), None)


def _settings_classes(annotation: Any) -> Iterator[Section]:
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        yield annotation
    for part in get_args(annotation):
        yield from _settings_classes(part)
