"""What the settings of several methods have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError, WrapValidator, model_validator

from icycle.errors import BudgetError, IcycleError, TrainingError
from icycle.saliency import check
from icycle.selection import Budget
from icycle.training import Settings

__all__ = ["STRICT", "BudgetSettings", "Checked", "Count", "Kept", "Positive", "Share", "known_criterion", "validated"]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Kept = Annotated[float, Field(gt=0, le=1)]

Cost = Annotated[int | float, Field(gt=0)]
S = TypeVar("S", bound=Settings)

# For dataclasses that are settings: a key or a value that `Settings` would refuse is refused here, too.
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class BudgetSettings(Settings):
    """One or more costs, all of which must hold: a kept fraction (0.5), an absolute count (60_000_000), a time
    ("12.5 ms"), an amount of memory ("1.5 MB"); and where latency and memory are measured. See `icycle.Budget`."""

    macs: Cost | None = None
    params: Cost | None = None
    activation_bytes: Cost | None = None
    memory: int | float | str | None = None
    latency: float | str | None = None
    target: str = "torch"
    batch: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    precision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_budget(cls, value: Any) -> Any:
        if isinstance(value, int | float | str):
            raise ValueError(f"expected what it may cost, by name, such as {{macs: {value}}}, but got {value}")
        if not isinstance(value, Budget):
            return value
        return {key: item for key, item in asdict(value).items() if item is not None}

    @model_validator(mode="after")
    def _consistent(self) -> BudgetSettings:
        try:
            self.build()
        except BudgetError as error:
            raise ValueError(str(error)) from error
        return self

    def build(self) -> Budget:
        return Budget(**self.model_dump())


def _as_value_error(value: Any, handler: Callable[[Any], Any]) -> Any:
    """What a dataclass finds wrong with itself becomes one of the recipe's faults."""
    try:
        return handler(value)
    except IcycleError as error:
        raise ValueError(str(error)) from error


def known_criterion(name: str) -> str:
    """The name of a criterion as it is; ValueError, for pydantic, where there is none of it."""
    try:
        check(name, loader=(), loss=lambda *_: None)
    except IcycleError as error:
        raise ValueError(str(error)) from error
    return name


# `Annotated[Phases, Checked]`: a dataclass of the user's own code, with its own checks, as a section of a recipe.
Checked = WrapValidator(_as_value_error)


def validated(schema: type[S], values: Mapping[str, Any]) -> S:
    """`schema(**values)` for a caller in Python.

    Raises:
        TrainingError: all that is wrong with the values.
    """
    try:
        return schema(**values)
    except ValidationError as error:
        faults = "; ".join(_fault(schema, fault) for fault in error.errors(include_url=False))
        raise TrainingError(f"Expected valid settings, but {faults}") from None


def _fault(schema: type[Settings], fault: Mapping[str, Any]) -> str:
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"'{name}' is none of {', '.join(schema.model_fields)}"
    if fault["type"] == "value_error":
        return ": ".join(filter(None, (name, str(fault["ctx"]["error"]))))
    message = fault["msg"]
    return f"{name}={fault['input']!r}: {message[0].lower()}{message[1:]}"
