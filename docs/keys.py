"""A hook of the site: the table of every key that a recipe may have, made from the schema that reads recipes."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from icycle.methods import methods
from icycle.recipes import Recipe
from icycle.tasks import tasks

MARK = "<!-- every key -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace(MARK, tables()) if MARK in markdown else markdown


def tables() -> str:
    """One table for the sections that every recipe has, then one for each task and method."""
    parts = [_table("Every recipe", "", Recipe)]
    parts += [_table(f"The task {name}", "task.", settings) for name, settings in tasks().items()]
    parts += [_table(f"The method {name}", "method.", settings) for name, settings in methods().items()]
    return "\n\n".join(parts)


def _table(title: str, prefix: str, settings: type[BaseModel]) -> str:
    rows = [f"| `{key}` | {kind} | {default} |" for key, kind, default in _rows(prefix, settings)]
    return "\n".join([f"### {title}", "", "| key | values | default |", "| --- | --- | --- |", *rows])


def _rows(prefix: str, settings: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """(key, kind of value, default) of all fields; those of a section stand below its name."""
    for name, field in settings.model_fields.items():
        inner = _section(field)
        if inner is not None and inner.model_fields and name not in ("task", "method"):
            yield from _rows(f"{prefix}{name}.", inner)
        else:
            yield prefix + name, _kind(field.annotation), _default(field)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The settings class of a section; one that may be left out, too."""
    if isinstance(field.default, BaseModel):
        return type(field.default)
    kinds = [kind for kind in (field.annotation, *typing.get_args(field.annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)


def _kind(annotation: Any) -> str:
    """A type in the words of a reader of YAML."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(parts[0])
    if origin is typing.Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return f"list of {_kind(parts[0])}"
    if origin is dict:
        return "mapping"
    if parts:  # a union
        return " or ".join(dict.fromkeys(_kind(part) for part in parts))
    words = {int: "integer", float: "number", str: "text", bool: "`true`, `false`", type(None): "nothing"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ((), {}):
        return "nothing"
    if isinstance(value, BaseModel):
        value = getattr(value, "name", value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
