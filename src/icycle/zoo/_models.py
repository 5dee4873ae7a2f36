"""Models by name: icycle's own, any of torchvision's, timm's and Hugging Face's, and those of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from icycle.errors import IcycleError, RecipeError
from icycle.registry import Kind, did_you_mean, is_import_path
from icycle.zoo._densenet import CifarDenseNet
from icycle.zoo._libraries import LIBRARIES
from icycle.zoo._mobilenet import CifarMobileNetV2
from icycle.zoo._other import MLP, SmallFCN, TinyTransformer
from icycle.zoo._resnet import CifarResNet
from icycle.zoo._small import SmallCNN
from icycle.zoo._vgg import CifarVGG

__all__ = ["build_model", "example_shape", "model", "model_names", "require_model"]

_OWN: dict[str, Callable[..., nn.Module]] = {
    "densenet40": partial(CifarDenseNet, 40),
    "densenet100": partial(CifarDenseNet, 100),
    "mlp": MLP,
    "mobilenet-v2": CifarMobileNetV2,
    "resnet8": partial(CifarResNet, 8),
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet56": partial(CifarResNet, 56),
    "resnet110": partial(CifarResNet, 110),
    "resnet152": partial(CifarResNet, 152),
    "small-cnn": SmallCNN,
    "small-fcn": SmallFCN,
    "tiny-transformer": TinyTransformer,
    "vgg16-bn": CifarVGG,
    "vgg19-bn": partial(CifarVGG, per_stage=4),
}

_KIND: Kind[Callable[..., nn.Module]] = Kind("a model", "icycle.models", _OWN)


def model(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register what makes the model `name`; it is called with num_classes and in_channels where it takes them."""

    def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        _OWN[name] = build
        return build

    return register


def model_names() -> tuple[str, ...]:
    """The names of models: icycle's own, and registered ones. `torchvision/<name>`, `timm/<name>`,
    `huggingface/<name or folder>` and `package.module:callable` are names too."""
    return _KIND.names()


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    width: int | None = None,
    options: Mapping[str, Any] | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """A model with fresh weights, or those that its library offers.

    Args:
        name: one of `model_names()`, `torchvision/<name>`, `timm/<name>`, `huggingface/<name or folder>`, or
            `package.module:callable`.
        num_classes: outputs, >= 1.
        in_channels: channels of the input images.
        width: channels of the first stage (DenseNet: growth rate), icycle's own models only; the paper's when omitted.
        options: more keywords of whatever makes the model.
        pretrained: with the weights that torchvision, timm or the Hugging Face hub have for it (a download), and a
            fresh head where the number of classes differs.

    Raises:
        RecipeError: an unknown name, or something that the model does not offer.
    """
    require_model(name)
    library, member = _parted(name)
    if library is None:
        if pretrained:
            raise RecipeError(f"Expected a library's model for weights: pretrained, but got '{name}'; name a file")
        offered = {"num_classes": num_classes, "in_channels": in_channels, "width": width}
        return _call(name, _KIND.find(name), offered, dict(options or {}))
    if width is not None:
        raise RecipeError(f"Expected no width for '{name}', but got {width}: only icycle's own models have one")
    return LIBRARIES[library].build(member, num_classes, in_channels, dict(options or {}), pretrained)


def require_model(name: str) -> None:
    """Check a model's name.

    Raises:
        RecipeError: it is unknown (the nearest is named), or its library is not installed.
    """
    library, member = _parted(name)
    if library is None:
        _KIND.find(name)
        return
    known = LIBRARIES[library].names()
    if known is not None and member not in known:
        raise RecipeError(f"Expected a model of {library}, but got '{name}'; {did_you_mean(member, known)}")


def example_shape(name: str) -> tuple[int, int, int]:
    """The input shape (channels, height, width) that the named model is usually run on."""
    library, member = _parted(name)
    if library is not None:
        return LIBRARIES[library].example_shape(member)
    return (1, 8, 8) if name == "small-cnn" else (3, 32, 32)


def _parted(name: str) -> tuple[str | None, str]:
    """The library that a name begins with, if any, and the rest."""
    library, slash, member = name.partition("/")
    if not slash or is_import_path(name):
        return None, name
    if library not in LIBRARIES:
        raise RecipeError(f"Expected {', '.join(f'{each}/<name>' for each in LIBRARIES)}, but got '{name}'")
    return library, member


def _call(name: str, build: Callable[..., Any], offered: Mapping[str, Any], options: dict[str, Any]) -> nn.Module:
    """What `build` makes of the options, and of what is offered, where it takes that and it is given."""
    try:
        parameters = inspect.signature(build).parameters
        everything = any(each.kind is each.VAR_KEYWORD for each in parameters.values()) and not is_import_path(name)
        given = {key: value for key, value in offered.items() if value is not None}
        taken = {key: value for key, value in given.items() if everything or key in parameters}
        if offered["width"] is not None and "width" not in taken:
            raise RecipeError(f"Expected no width for '{name}', but got {offered['width']}: it takes none")
        made = build(**{**taken, **options})
    except IcycleError:
        raise
    except (Exception, SystemExit) as error:  # whatever the network's own code raises
        raise RecipeError(
            f"Expected '{name}' to make a network of {options or 'no options'}, but it gave {type(error).__name__}: "
            f"{error}; change model.options"
        ) from error
    made = made[0] if isinstance(made, tuple) else made  # inspect and verify take (model, example inputs), too
    if not isinstance(made, nn.Module):
        raise RecipeError(f"Expected '{name}' to return a torch.nn.Module, but got {type(made).__name__}")
    return made
