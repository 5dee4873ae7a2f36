"""`icycle inspect`: what can be pruned in a model, and why the rest cannot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from icycle.structure import Group, Structure

__all__ = ["inspect"]


def inspect(
    model: Annotated[
        str, typer.Argument(help="A zoo model, torchvision/<name>, timm/<name>, or module.path:factory of your own.")
    ],
    shape: Annotated[
        str | None,
        typer.Option("--input", metavar="C,H,W", help="Shape of one input; the model's usual one when omitted."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print MODEL's groups of channels, their members, what is pinned and why."""
    import torch
    from rich.console import Console

    from icycle.engine import trace

    sizes = _parse_shape(shape) if shape else _usual_shape(model)
    structure = trace(_load(model, sizes), torch.zeros(1, *sizes))
    if as_json:
        print(json.dumps(_record(structure), indent=2))
        return
    console = Console()
    console.print(_table(structure))
    prunable = sum(group.size for group in structure.prunable)
    console.print(
        f"{len(structure.prunable)} prunable groups of {prunable:,} channels, "
        f"{len(structure.groups) - len(structure.prunable)} pinned; {structure.macs():,} MACs, "
        f"{structure.params():,} parameters, for an input of {tuple(sizes)}"
    )


def _parse_shape(text: str) -> tuple[int, ...]:
    from icycle.errors import RecipeError

    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise RecipeError(f"Expected --input as positive sizes like 3,224,224, but got '{text}'")
    return sizes


def _usual_shape(model: str) -> tuple[int, ...]:
    from icycle.errors import RecipeError
    from icycle.zoo import example_shape, require_model

    if ":" in model:
        raise RecipeError(f"Expected --input C,H,W with a model of your own, but got none for '{model}'")
    require_model(model)
    return example_shape(model)


def _load(model: str, sizes: tuple[int, ...]) -> nn.Module:
    from icycle.zoo import build_model

    if ":" in model:
        return _call_factory(model)
    classes = 1000 if "/" in model else 10
    return build_model(model, num_classes=classes, in_channels=sizes[0])


def _call_factory(reference: str) -> nn.Module:
    """The model that `module.path:factory` makes; the current folder is searched first."""
    import importlib
    import os
    import sys

    from torch import nn

    from icycle.errors import RecipeError

    module, _, factory = reference.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError, TypeError) as error:
        raise RecipeError(
            f"Expected module.path:factory that makes a model without arguments, but '{reference}' gave "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise RecipeError(f"Expected '{reference}' to make a torch.nn.Module, but got {type(made).__name__}")
    return made


def _table(structure: Structure) -> Table:
    from rich.table import Table

    table = Table("group", "size", "prunable", "exact", "members, or why it is pinned")
    for group in structure.groups:
        note = "\n".join(_members(group)) if group.prunable else group.reason
        table.add_row(group.name, str(group.size), _word(group.prunable), _word(group.exact), note)
    return table


def _word(value: bool) -> str:
    return "yes" if value else "no"


def _members(group: Group) -> list[str]:
    return [f"{piece.parameter}[dim {piece.dim}] {piece.role}" for piece in group.slices]


def _record(structure: Structure) -> dict[str, Any]:
    return {
        "macs": structure.macs(),
        "params": structure.params(),
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "prunable": group.prunable,
                "exact": group.exact,
                "reason": group.reason,
                "members": _members(group),
            }
            for group in structure.groups
        ],
    }
