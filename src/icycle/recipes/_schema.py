"""What a recipe may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, TypeAdapter, model_validator

from icycle.errors import IcycleError
from icycle.methods import Method, methods
from icycle.recipes._track import find_tracker
from icycle.registry import Kind, import_module
from icycle.tasks import TASK
from icycle.training import Classification, Named, Settings, Supervised, Task, TrainSettings
from icycle.zoo import Augment, require_dataset, require_model

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
Count = Annotated[int, Field(ge=1)]


def _file_name(name: str) -> str:
    """A run's folder is named after it, and lies in the runs folder."""
    if name.startswith(".") or not name.isprintable() or len(name) > 100 or any(sign in name for sign in "/\\:"):
        raise ValueError(
            f"expected a name that a folder can have, of at most 100 characters, without / \\ : and not beginning with "
            f"a dot, but got {name!r:.120}"
        )
    return name


def _augment(value: Any) -> bool | Augment:
    """True, false, or the keys of `Augment`; a union would report each fault once for either."""
    if isinstance(value, dict | Augment):
        return Augment.model_validate(value)
    return TypeAdapter(bool).validate_python(value)


def _listed(value: Any) -> Any:
    """`track: tensorboard` is short for a list of one; nothing for an empty one."""
    return () if value is None else (value,) if isinstance(value, str) else value


class DataSettings(Settings):
    """Which data, and how it is split; see `icycle.zoo.load_data`."""

    name: Annotated[Name, _known(require_dataset)] | None = None
    folder: Path | None = None
    huggingface: Name | None = None
    webdataset: dict[str, str] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    classes: Count | None = None
    subset: Count | None = None
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1
    augment: Annotated[bool | Augment, PlainValidator(_augment)] = True
    size: Count | None = None
    channels: Literal[1, 3] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    workers: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> DataSettings:
        """A name, with or without a folder, or one place."""
        places = [key for key in ("folder", "huggingface", "webdataset") if getattr(self, key) is not None]
        if (len(places) != 1) if self.name is None else any(place != "folder" for place in places):
            given = [*(["name"] if self.name else []), *places]
            raise ValueError(
                "expected a name (with a folder, if you like), or one of folder, huggingface and webdataset, but got "
                f"{' and '.join(given) or 'none of them'}"
            )
        return self


class ModelSettings(Settings):
    """Which network; see `icycle.zoo.build_model`.

    `weights` are trained ones to start from: "pretrained" for those that its library offers, or a path, see
    `icycle.zoo.load_weights`.
    """

    name: Annotated[Name, _known(require_model)]
    width: Count | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    weights: Literal["pretrained"] | Path | None = None


class Recipe(Settings):
    """A whole run: data, model, training, method and seed.

    `imports` are modules that register what the other sections name; they are imported first. `track` are trackers that
    the metrics are sent to.
    """

    imports: tuple[Annotated[str, _known(import_module)], ...] = ()
    name: Annotated[Name, AfterValidator(_file_name)]
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataSettings
    model: ModelSettings
    task: Annotated[Task, TASK] = Classification()
    train: TrainSettings = TrainSettings()
    method: Annotated[Method, METHOD]
    track: Annotated[tuple[Annotated[str, _known(find_tracker)], ...], BeforeValidator(_listed)] = ()

    @model_validator(mode="after")
    def _fresh(self) -> Recipe:
        """A method that is about fresh weights is given no trained ones."""
        if self.method.starts_fresh and self.model.weights is not None:
            raise ValueError(
                f"model.weights: expected none, as the method '{self.method.name}' trains fresh ones, but got "
                f"'{self.model.weights}'"
            )
        return self

    @model_validator(mode="after")
    def _teachable(self) -> Recipe:
        """Distillation needs a teacher, and a task that can be taught."""
        distill = self.train.distill
        if distill is not None and not (isinstance(self.task, Supervised) and self.task.can_be_taught):
            raise ValueError(f"train.distill: expected a task that can be taught, but got '{self.task.name}'")
        if distill is not None and distill.teacher is None and not self.method.has_teacher:
            raise ValueError(
                f"train.distill.teacher: expected the path of trained weights, as the method '{self.method.name}' "
                "has no trained dense network of its own to learn from"
            )
        return self
