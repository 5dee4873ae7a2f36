"""The arguments of an ATen operation by the names of its schema, so that no rule counts positions."""

from __future__ import annotations

import functools
from typing import Any

import torch

__all__ = ["Arguments", "base_name", "bind"]


class Arguments:
    """The arguments of one operation as attributes, `given.self` or `given.dim`, with the schema's defaults.

    `name` is the operation's own, without library, overload and the underscore of an in-place form. An operation that
    has no argument of a name raises AttributeError; overloads that differ are asked with `get`.
    """

    __slots__ = ("_values", "name", "operation")

    def __init__(self, operation: Any, values: dict[str, Any]) -> None:
        self.operation = operation
        self.name = base_name(operation)
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"{self.operation} has no argument {name!r}, but {list(self._values)}") from None

    def get(self, name: str, default: Any = None) -> Any:
        """The argument, or `default` where the operation has none of this name."""
        return self._values.get(name, default)

    def operands(self) -> dict[str, torch.Tensor]:
        """The arguments that are tensors; those of a list by its name and their place in it."""
        found: dict[str, torch.Tensor] = {}
        for name, value in self._values.items():
            if isinstance(value, torch.Tensor):
                found[name] = value
            elif isinstance(value, (tuple, list)):
                found.update({f"{name}.{i}": item for i, item in enumerate(value) if isinstance(item, torch.Tensor)})
        return found


def bind(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """The arguments of an operation that has a schema: one dict update, as it runs for every operation of a trace."""
    names, defaults = _signature(operation)
    return Arguments(operation, {**defaults, **dict(zip(names, args, strict=False)), **kwargs})


@functools.cache
def _signature(operation: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    arguments = operation._schema.arguments
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    return tuple(argument.name for argument in arguments), defaults


@functools.cache
def base_name(operation: Any) -> str:
    """ "add" for aten::add_.Tensor."""
    name: str = operation.name()
    return name.split("::")[-1].split(".")[0].rstrip("_")  # an operator that takes functions has no library
