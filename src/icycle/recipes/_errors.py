"""Every fault of a recipe in one message, each with the nearest valid key or name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from icycle.errors import RecipeError
from icycle.training import did_you_mean

__all__ = ["recipe_error"]


def recipe_error(origin: str, schema: type[BaseModel], error: ValidationError) -> RecipeError:
    """One error for all that pydantic found wrong with the recipe from `origin`."""
    faults = error.errors(include_url=False)
    lines = [f"  {line}" for line in (_line(schema, fault) for fault in faults)]
    count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
    return RecipeError("\n".join([f"Expected a valid recipe, but {origin} has {count}:", *lines]))


def _line(schema: type[BaseModel], fault: ErrorDetails) -> str:
    path, model = _resolve(schema, fault["loc"])
    where = ".".join(path)
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{where}: unknown key; {did_you_mean(path[-1], model.model_fields if model else ())}"
    if kind == "missing":
        return f"{where}: a value is needed here"
    if kind == "union_tag_not_found":
        return f"{where}.name: a name is needed here"
    if kind == "union_tag_invalid":
        names = [name.strip(" '") for name in context["expected_tags"].split(",")]
        return f"{where}.name: unknown name '{context['tag']}'; {did_you_mean(str(context['tag']), names)}"
    if kind == "value_error":
        return f"{where}: {context['error']}"
    if kind == "literal_error":
        return f"{where}: expected {context['expected']}, but got {fault['input']!r}"
    return f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}, but got {fault['input']!r}"


def _resolve(schema: type[BaseModel], location: Sequence[str | int]) -> tuple[list[str], type[BaseModel] | None]:
    """The user's path to a fault, and the settings class that its last key belongs to.

    Pydantic's location names the chosen member of a union as if it were a key; it is left out.
    """
    path: list[str] = []
    owner: type[BaseModel] | None = schema  # whose keys the next part is looked up in
    holder: type[BaseModel] | None = None  # whose key the last part was
    members: dict[str, type[BaseModel]] = {}
    for part in map(str, location):
        if part in members:
            owner, members = members[part], {}
            continue
        path.append(part)
        holder = owner
        field = owner.model_fields.get(part) if owner else None
        classes = _settings_classes(field.annotation) if field else []
        members = {_tag(each): each for each in classes} if len(classes) > 1 else {}
        owner = classes[0] if len(classes) == 1 else None
    return path, holder


def _settings_classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _settings_classes(part)]


def _tag(member: type[BaseModel]) -> str:
    field = member.model_fields.get("name")
    return str(field.default) if field else ""
