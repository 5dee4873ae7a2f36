"""What a model is made of, by name: as torch's own generators have it, which are nested as deep as the model is, in one
loop, for a trace goes through it thirty times."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["named_modules", "named_tensors"]


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
    modules = list(named_modules(model))
    for kind in ("_parameters", "_buffers"):
        seen: set[int] = set()
        for path, module in modules:
            for name, tensor in vars(module)[kind].items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield (f"{path}.{name}" if path else name), tensor
