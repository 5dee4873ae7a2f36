"""Model libraries: torchvision's, timm's and Hugging Face's models, imported when first asked for."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection
from types import ModuleType
from typing import Any

from torch import nn

from icycle.errors import RecipeError
from icycle.zoo._weights import fit_state

__all__ = ["LIBRARIES", "Library"]

Shape = tuple[int, int, int]  # channels, height, width


class Library(ABC):
    """A source of models by name."""

    @abstractmethod
    def names(self) -> Collection[str] | None:
        """Every model it has; None where nobody can list them."""

    @abstractmethod
    def build(
        self, name: str, num_classes: int, in_channels: int, options: dict[str, Any], pretrained: bool
    ) -> nn.Module:
        """A model with fresh weights, or with the library's and a fresh head where the number of classes differs."""

    @abstractmethod
    def example_shape(self, name: str) -> Shape:
        """The input shape the model is usually run on."""


class _Torchvision(Library):
    def names(self) -> Collection[str]:
        from torchvision import models

        return models.list_models()

    def build(
        self, name: str, num_classes: int, in_channels: int, options: dict[str, Any], pretrained: bool
    ) -> nn.Module:
        from torchvision import models

        if in_channels != 3:
            raise RecipeError(
                f"Expected images of 3 channels for 'torchvision/{name}', but got {in_channels}; set data.channels "
                "to 3, or choose a model of icycle's or timm's"
            )
        options = {"weights": None, "num_classes": num_classes, **options}
        if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
            options["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False  # theirs takes half a minute, and warns where it is not chosen
        model = models.get_model(name, **options)
        if pretrained:
            fit_state(model, models.get_model_weights(name).DEFAULT.get_state_dict(progress=False), f"{name}'s weights")
        return model

    def example_shape(self, name: str) -> Shape:
        return (3, 299, 299) if name == "inception_v3" else (3, 224, 224)


class _Timm(Library):
    def names(self) -> Collection[str]:
        return _import_timm().list_models()

    def build(
        self, name: str, num_classes: int, in_channels: int, options: dict[str, Any], pretrained: bool
    ) -> nn.Module:
        given = {"num_classes": num_classes, "in_chans": in_channels, **options}
        return _import_timm().create_model(name, pretrained=pretrained, **given)

    def example_shape(self, name: str) -> Shape:
        config = _import_timm().get_pretrained_cfg(name)
        return tuple(config.input_size) if config is not None else (3, 224, 224)


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise RecipeError("Expected timm to be installed for a timm/<name> model; run: pip install timm") from error
    return timm


class _HuggingFace(Library):
    """A model of the hub, or of a folder with a config.json, in the class that its configuration names."""

    def names(self) -> None:
        return None

    def build(
        self, name: str, num_classes: int, in_channels: int, options: dict[str, Any], pretrained: bool
    ) -> nn.Module:
        transformers = _import_transformers()
        try:
            config = transformers.AutoConfig.from_pretrained(name, num_labels=num_classes, **options)
            kind = getattr(transformers, (config.architectures or ["AutoModelForImageClassification"])[0])
            if pretrained:
                return kind.from_pretrained(name, config=config, ignore_mismatched_sizes=True)
            return kind(config) if hasattr(kind, "base_model_prefix") else kind.from_config(config)
        except (OSError, ValueError, AttributeError) as error:
            raise RecipeError(
                f"Expected huggingface/<name> to be a model of the hub that can be reached, or a folder with a "
                f"config.json, but '{name}' gave {type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error

    def example_shape(self, name: str) -> Shape:
        return (3, 224, 224)


def _import_transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise RecipeError(
            "Expected transformers to be installed for a huggingface/<name> model; run: pip install "
            "'icycle[huggingface]'"
        ) from error
    return transformers


LIBRARIES: dict[str, Library] = {"torchvision": _Torchvision(), "timm": _Timm(), "huggingface": _HuggingFace()}
