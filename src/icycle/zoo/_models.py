"""Models by name: icycle's own for small images, and any of torchvision's and timm's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from icycle.errors import RecipeError
from icycle.registry import did_you_mean
from icycle.zoo._densenet import CifarDenseNet
from icycle.zoo._libraries import LIBRARIES
from icycle.zoo._mobilenet import CifarMobileNetV2
from icycle.zoo._resnet import CifarResNet
from icycle.zoo._small import SmallCNN
from icycle.zoo._vgg import CifarVGG

__all__ = ["build_model", "example_shape", "model_names", "require_model"]

_OWN: dict[str, Callable[..., nn.Module]] = {
    "densenet40": partial(CifarDenseNet, 40),
    "densenet100": partial(CifarDenseNet, 100),
    "mobilenet-v2": CifarMobileNetV2,
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet56": partial(CifarResNet, 56),
    "resnet110": partial(CifarResNet, 110),
    "resnet152": partial(CifarResNet, 152),
    "small-cnn": SmallCNN,
    "vgg16-bn": CifarVGG,
}


def model_names() -> tuple[str, ...]:
    """The names of icycle's own models; `torchvision/<name>` and `timm/<name>` are names too."""
    return tuple(_OWN)


def build_model(name: str, *, num_classes: int, in_channels: int = 3, width: int | None = None) -> nn.Module:
    """A model with fresh weights.

    Args:
        name: one of `model_names()`, `torchvision/<name>` or `timm/<name>`.
        num_classes: outputs, >= 1.
        in_channels: channels of the input images.
        width: channels of the first stage (DenseNet: growth rate), icycle's own models only; the paper's when omitted.

    Raises:
        RecipeError: an unknown name, or something that the model does not offer.
    """
    require_model(name)
    library, _, member = name.rpartition("/")
    if not library:
        options = {} if width is None else {"width": width}
        return _OWN[name](num_classes=num_classes, in_channels=in_channels, **options)
    if width is not None:
        raise RecipeError(f"Expected no width for '{name}', but got {width}: only icycle's own models have one")
    return LIBRARIES[library].build(member, num_classes, in_channels)


def require_model(name: str) -> None:
    """Check a model's name.

    Raises:
        RecipeError: it is unknown (the nearest is named), or its library is not installed.
    """
    library, _, member = name.rpartition("/")
    if library and library not in LIBRARIES:
        raise RecipeError(f"Expected torchvision/<name> or timm/<name>, but got '{name}'")
    known = LIBRARIES[library].names() if library else _OWN
    if member not in known:
        source = f"a model of {library}" if library else "a model of icycle's, torchvision/<name> or timm/<name>"
        raise RecipeError(f"Expected {source}, but got '{name}'; {did_you_mean(member, known)}")


def example_shape(name: str) -> tuple[int, int, int]:
    """The input shape (channels, height, width) that the named model is usually run on."""
    library, _, member = name.rpartition("/")
    if library:
        return LIBRARIES[library].example_shape(member)
    return (1, 8, 8) if name == "small-cnn" else (3, 32, 32)
