"""How a batch reaches the model's device, and what of it the model is called on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from icycle.probing._wrappers import unwrapped
from icycle.tracing import map_tensors

__all__ = ["inputs_for", "to_device"]


def inputs_for(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """What `call_with` calls the model on for a batch, and the batch's targets, on the model's device.

    The last element of a tuple or list is the targets, the others are the inputs; a batch of one element, or of another
    type, is its own targets. A single input that is a mapping stands for keywords, without the "labels" that `forward`
    does not take; one that is a tuple or list for as many inputs, where `forward` takes them.
    """
    batch = to_device(batch, model)
    parts = batch if isinstance(batch, tuple | list) and batch else (batch,)
    inputs = parts[:-1] or parts
    return (inputs if len(inputs) > 1 else _arguments(model, inputs[0])), parts[-1]


def _arguments(model: nn.Module, value: Any) -> Any:
    if isinstance(value, Mapping):
        return value if _takes(model, **value) else {key: item for key, item in value.items() if key != "labels"}
    return value if isinstance(value, tuple | list) and _takes(model, *value) else (value,)


def _takes(model: nn.Module, /, *arguments: Any, **keywords: Any) -> bool:
    """Could the model, or the one inside its wrapper, be called so?"""
    try:
        inspect.signature(unwrapped(model).forward).bind(*arguments, **keywords)
    except (TypeError, ValueError):  # a ValueError where there is no signature
        return False
    return True


def to_device(batch: Any, model: nn.Module, *, channels_last: bool = False) -> Any:
    """The batch on the model's device; `channels_last`: its images in that memory format."""
    weight = next(model.parameters(), None)

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if weight is not None:
            tensor = tensor.to(weight.device, non_blocking=True)
        if channels_last and tensor.dim() == 4 and tensor.is_floating_point():
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    return map_tensors(batch, move)
