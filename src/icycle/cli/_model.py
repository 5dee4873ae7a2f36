"""The MODEL that a verb is called with: a name, or a factory of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

__all__ = ["InputShape", "ModelName", "load_model"]

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A zoo model, torchvision/NAME, timm/NAME, huggingface/NAME, or module.path:factory of your own, which "
        "returns a model, or a model and its example inputs.",
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option("--input", metavar="C,H,W", help="Shape of one input; the model's usual one when omitted."),
]


def load_model(name: str, shape: str | None, classes: int | None = None) -> tuple[nn.Module, Any]:
    """The model that `name` stands for, with fresh weights where it is a name, and inputs that it runs on.

    `shape` is that of one input, without the batch, as "C,H,W"; of `classes` there are as many as usual when omitted.
    Raises RecipeError where there is no such model.
    """
    from icycle.errors import RecipeError
    from icycle.zoo import build_model, example_shape, require_model

    if ":" in name:
        return _own(name, shape, classes)
    if Path(name).is_dir():
        raise RecipeError(
            f"Expected a model, but '{name}' is a folder; give the model that is in it by its name, or icycle report "
            "where it is a run"
        )
    require_model(name)
    sizes = example_shape(name) if shape is None else _parse(shape)
    classes = classes or (1000 if "/" in name else 10)
    return build_model(name, num_classes=classes, in_channels=sizes[0]), _random(sizes)


def _parse(text: str) -> tuple[int, ...]:
    from icycle.errors import RecipeError

    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise RecipeError(f"Expected --input as positive sizes like 3,224,224, but got '{text}'")
    return sizes


def _random(sizes: tuple[int, ...]) -> Any:
    import torch

    return torch.randn(1, *sizes, generator=torch.Generator().manual_seed(0))


def _own(reference: str, shape: str | None, classes: int | None) -> tuple[nn.Module, Any]:
    """What `module.path:factory` returns; the current folder is searched first."""
    from torch import nn

    from icycle.errors import RecipeError

    made = _call(reference, shape, classes)
    model, *inputs = made if isinstance(made, tuple) else (made,)
    if not isinstance(model, nn.Module) or len(inputs) > 1:
        raise RecipeError(
            f"Expected '{reference}' to return a torch.nn.Module, or one and its example inputs, but got "
            f"{type(made).__name__}"
        )
    if shape is not None:
        return model, _random(_parse(shape))
    if not inputs:
        raise RecipeError(
            f"Expected --input C,H,W, or example inputs from '{reference}' (return model, inputs), but got neither"
        )
    return model, inputs[0]


def _call(reference: str, shape: str | None, classes: int | None) -> Any:
    import importlib
    import os
    import sys

    from icycle.errors import IcycleError, RecipeError

    module, _, factory = reference.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module), factory)
        return make(**_wanted(make, shape, classes))
    except IcycleError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise RecipeError(
            "Expected module.path:factory that takes no arguments (or num_classes and in_channels) and returns a model "
            f"(then with --input C,H,W), or a model and its example inputs, but '{reference}' gave "
            f"{type(error).__name__}: {error}"
        ) from error


def _wanted(make: Callable[..., Any], shape: str | None, classes: int | None) -> dict[str, int]:
    """What a run would hand to the factory and it cannot do without, or is known; any number of classes shows the same
    groups."""
    import inspect

    offered = {"num_classes": classes or 10, "in_channels": 3 if shape is None else _parse(shape)[0]}
    known = set() if classes is None else {"num_classes"}
    taken = inspect.signature(make).parameters.values()
    needed = [each.name for each in taken if each.default is each.empty or each.name in known]
    return {name: offered[name] for name in needed if name in offered}
