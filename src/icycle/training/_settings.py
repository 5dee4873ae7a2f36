"""The base of every settings object, and fields whose `name` decides which settings they hold."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, ValidationInfo, field_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from icycle.errors import IcycleError
from icycle.registry import is_import_path

__all__ = ["Named", "Settings"]

_LARGEST = 1e15  # of any number; what is beyond is a slip, and makes loops endless and sums infinite


class Settings(BaseModel):
    """Frozen, and strict: an unknown key, NaN, infinity, a number beyond 1e15 and `true` for a number are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Python's True is the number 1; a recipe's `true` is none."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        if _holds(value, _is_truth) and not _mentions(annotation, bool):
            raise ValueError(f"expected no true or false here, but got {value!r}")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _no_endless_numbers(cls, value: Any) -> Any:
        if _holds(value, _is_endless):
            raise ValueError(f"expected a number up to {_LARGEST:g}")
        return value


@dataclass(frozen=True)
class Named:
    """Marks a field `Annotated[Base, Named(Base, find)]` whose value's `name` is looked up when it is read.

    `find(name)` returns the settings class, a subclass of `base`, or raises an IcycleError; what is registered after
    the field was declared is found, too. A name that is an import path is kept in the settings, whatever the class's
    own is, so that what is written out can be read back.
    """

    base: type[BaseModel]
    find: Callable[[str], type[BaseModel]]

    def member(self, value: Any) -> type[BaseModel] | None:
        """The settings class of a value as a recipe has it; None where it names none."""
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str):
            return None
        try:
            found = self.find(name)
        except IcycleError:
            return None
        return found if isinstance(found, type) and issubclass(found, self.base) else None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def _validate(self, value: Any) -> BaseModel:
        if isinstance(value, self.base):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"expected keys and values, a name among them, but got {value!r}")
        if not isinstance(value.get("name"), str):
            raise _fault(self.base, "a name is needed here", value.get("name"))
        try:
            found = self.find(value["name"])
        except IcycleError as error:
            raise _fault(self.base, str(error), value["name"]) from None
        if not (isinstance(found, type) and issubclass(found, self.base)):
            wanted = f"{self.base.__module__.partition('._')[0]}.{self.base.__name__}"
            raise _fault(self.base, f"expected a subclass of {wanted}, but got {found!r}", value["name"])
        return _build(found, value)


def _build(settings: type[BaseModel], value: dict[str, Any]) -> BaseModel:
    name = value["name"]
    if not is_import_path(name):
        return settings.model_validate(value)
    own = settings.model_fields["name"]
    rest = {key: entry for key, entry in value.items() if key != "name"}
    made = settings.model_validate({**rest, "name": name} if own.is_required() else rest)
    return made.model_copy(update={"name": name})


def _fault(base: type[BaseModel], words: str, value: Any) -> ValidationError:
    """A fault at the key `name`."""
    error = PydanticCustomError("name", "{words}", {"words": words})
    return ValidationError.from_exception_data(base.__name__, [{"type": error, "loc": ("name",), "input": value}])


def _holds(value: Any, wanted: Callable[[Any], bool]) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds(each, wanted) for each in value)
    return wanted(value)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_endless(value: Any) -> bool:
    return isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= _LARGEST)


def _mentions(annotation: Any, wanted: type) -> bool:
    """Does the annotation admit `wanted` (or anything) anywhere?"""
    return annotation in (wanted, Any) or any(_mentions(part, wanted) for part in typing.get_args(annotation))
