"""Model libraries: torchvision's and timm's models, imported when first asked for."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection
from types import ModuleType

from torch import nn

from icycle.errors import RecipeError

__all__ = ["LIBRARIES", "Library"]

Shape = tuple[int, int, int]  # channels, height, width


class Library(ABC):
    """A source of models by name."""

    @abstractmethod
    def names(self) -> Collection[str]:
        """Every model it has."""

    @abstractmethod
    def build(self, name: str, num_classes: int, in_channels: int) -> nn.Module:
        """A model with fresh weights."""

    @abstractmethod
    def example_shape(self, name: str) -> Shape:
        """The input shape the model is usually run on."""


class _Torchvision(Library):
    def names(self) -> Collection[str]:
        from torchvision import models

        return models.list_models()

    def build(self, name: str, num_classes: int, in_channels: int) -> nn.Module:
        from torchvision import models

        if in_channels != 3:
            raise RecipeError(
                f"Expected images of 3 channels for 'torchvision/{name}', but got {in_channels}; set data.channels "
                "to 3, or choose a model of icycle's or timm's"
            )
        options: dict[str, object] = {"weights": None, "num_classes": num_classes}
        if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
            options["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False  # theirs takes half a minute, and warns where it is not chosen
        return models.get_model(name, **options)

    def example_shape(self, name: str) -> Shape:
        return (3, 299, 299) if name == "inception_v3" else (3, 224, 224)


class _Timm(Library):
    def names(self) -> Collection[str]:
        return _import_timm().list_models()

    def build(self, name: str, num_classes: int, in_channels: int) -> nn.Module:
        return _import_timm().create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels)

    def example_shape(self, name: str) -> Shape:
        config = _import_timm().get_pretrained_cfg(name)
        return tuple(config.input_size) if config is not None else (3, 224, 224)


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise RecipeError("Expected timm to be installed for a timm/<name> model; run: pip install timm") from error
    return timm


LIBRARIES: dict[str, Library] = {"torchvision": _Torchvision(), "timm": _Timm()}
