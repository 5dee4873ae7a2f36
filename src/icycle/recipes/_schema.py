"""What a recipe may say."""

from __future__ import annotations

import operator
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from icycle import methods
from icycle.errors import IcycleError
from icycle.training import Settings, TrainSettings
from icycle.zoo import require_dataset, require_model

__all__ = ["DataSettings", "ModelSettings", "Recipe"]

if TYPE_CHECKING:
    AnyMethod = methods.Method
else:
    # The union of all registered methods: their keys and their errors are those of the method that was named.
    AnyMethod = reduce(operator.or_, methods.methods().values())

Name = Annotated[str, Field(min_length=1)]


class DataSettings(Settings):
    """Which data, and how it is split; see `icycle.zoo.load_data`."""

    name: Name
    folder: Path | None = None
    subset: Annotated[int, Field(ge=1)] | None = None
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    augment: bool = True
    channels: Annotated[int, Field(ge=1)] | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            require_dataset(name)
        except IcycleError as error:
            raise ValueError(str(error)) from error
        return name


class ModelSettings(Settings):
    """Which network; see `icycle.zoo.build_model`.

    `weights` are trained ones to start from: a folder that `icycle.save` made, or a state dict in a .safetensors file.
    """

    name: Name
    width: Annotated[int, Field(ge=1)] | None = None
    weights: Path | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            require_model(name)
        except IcycleError as error:
            raise ValueError(str(error)) from error
        return name


class Recipe(Settings):
    """A whole run: data, model, training, method and seed."""

    name: Name
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataSettings
    model: ModelSettings
    train: TrainSettings = TrainSettings()
    method: AnyMethod = Field(discriminator="name")
