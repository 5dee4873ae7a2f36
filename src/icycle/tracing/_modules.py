"""What a model is made of, by name: as torch's own generators have it, which are nested as deep as the model is, in one
loop, for a trace goes through it thirty times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["named_modules", "named_tensors", "set_mode"]


def named_modules(model: nn.Module, again: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """Every module, a shared one once, by its first path, or with `again` by all; a module before those in it."""
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        if not again:
            if id(module) in seen:
                continue
            seen.add(id(module))
        yield path, module
        if module._modules:
            start = f"{path}." if path else ""
            waiting.extend([(start + name, one) for name, one in module._modules.items() if one is not None][::-1])


def named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter, then every buffer, tied ones once, by their first name."""
    parameters: dict[int, tuple[str, torch.Tensor]] = {}
    buffers: dict[int, tuple[str, torch.Tensor]] = {}
    for path, module in named_modules(model):
        for own, found in ((module._parameters, parameters), (module._buffers, buffers)):
            for name, tensor in own.items():
                if tensor is not None and id(tensor) not in found:
                    found[id(tensor)] = (f"{path}.{name}" if path else name), tensor
    yield from parameters.values()
    yield from buffers.values()


def set_mode(model: nn.Module, training: bool) -> None:
    """`model.train(training)`, by its modules' own methods where they have any."""
    modules = [module for _, module in named_modules(model)]
    if all(_is_plain(type(module)) for module in modules):
        for module in modules:
            vars(module)["training"] = training  # not by `__setattr__`, which looks for parameters first
    else:
        model.train(training)


def _is_plain(kind: Any) -> bool:
    return kind.train is nn.Module.train and kind.__setattr__ is nn.Module.__setattr__
