"""What a recipe may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from icycle.errors import IcycleError
from icycle.methods import Method, methods
from icycle.registry import Kind, import_module
from icycle.training import Named, Settings, TrainSettings
from icycle.zoo import require_dataset, require_model

__all__ = ["METHOD", "DataSettings", "ModelSettings", "Recipe"]

T = TypeVar("T")


# Looked up when a recipe is read: `methods()` has what was registered by then.
METHOD = Named(Method, lambda name: Kind("a method", "icycle.methods", methods()).find(name))


def _known(check: Callable[[str], object]) -> AfterValidator:
    """A validator that passes a name on once `check` has found it."""

    def validate(name: str) -> str:
        try:
            check(name)
        except IcycleError as error:
            raise ValueError(str(error)) from error
        return name

    return AfterValidator(validate)


Name = Annotated[str, Field(min_length=1)]


class DataSettings(Settings):
    """Which data, and how it is split; see `icycle.zoo.load_data`."""

    name: Annotated[Name, _known(require_dataset)]
    folder: Path | None = None
    subset: Annotated[int, Field(ge=1)] | None = None
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    augment: bool = True
    channels: Annotated[int, Field(ge=1)] | None = None


class ModelSettings(Settings):
    """Which network; see `icycle.zoo.build_model`.

    `weights` are trained ones to start from: a folder that `icycle.save` made, or a state dict in a .safetensors file.
    """

    name: Annotated[Name, _known(require_model)]
    width: Annotated[int, Field(ge=1)] | None = None
    weights: Path | None = None


class Recipe(Settings):
    """A whole run: data, model, training, method and seed.

    `imports` are modules that register what the other sections name; they are imported first.
    """

    imports: tuple[Annotated[str, _known(import_module)], ...] = ()
    name: Name
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataSettings
    model: ModelSettings
    train: TrainSettings = TrainSettings()
    method: Annotated[Method, METHOD]
