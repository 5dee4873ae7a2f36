"""What a model was traced on, in words that can be stored: kinds, types and shapes, and of integers the largest.

A removal leaves it with the model, and `icycle.load` builds from it inputs on which a fresh model can be traced again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from icycle.errors import SurgeryError

__all__ = ["described", "inputs_from", "remember_inputs", "remembered_inputs"]

_ATTRIBUTE = "_icycle_inputs"  # on a model; copies and pickles along
_LARGEST = 2**27  # elements of one tensor
_PLAIN = (type(None), bool, int, float, str)


def described(inputs: Any) -> str | None:
    """JSON that tells what `inputs` are; None where they hold anything but tensors, tuples, mappings and constants."""
    try:
        return json.dumps(_described(inputs))
    except TypeError:
        return None


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        counts = not (value.is_floating_point() or value.is_complex() or value.is_meta) and value.numel() > 0
        largest = {"largest": int(value.max())} if counts else {}
        return {"tensor": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), **largest}
    if isinstance(value, Mapping):
        return {"mapping": [[str(key), _described(item)] for key, item in value.items()]}
    if isinstance(value, (tuple, list)):
        return {"tuple": [_described(item) for item in value]}
    if isinstance(value, _PLAIN):
        return {"constant": value}
    raise TypeError(type(value))


def inputs_from(text: str) -> Any:
    """Inputs of that description: floats are zero, integers all the largest that there was.

    Raises SurgeryError for a text that `described` would not have written.
    """
    try:
        return _inputs(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RuntimeError) as error:
        raise SurgeryError(f"Expected a description of inputs, but got {text[:80]!r} ({error}).") from None


def _inputs(content: Any) -> Any:
    ((kind, own), *rest) = content.items()
    if kind == "tuple":
        return tuple(_inputs(item) for item in own)
    if kind == "mapping":
        return {str(key): _inputs(item) for key, item in own}
    if kind == "constant" and isinstance(own, _PLAIN):
        return own
    given = dict(rest)
    dtype, shape = getattr(torch, own), [int(size) for size in given["shape"]]
    if kind != "tensor" or not isinstance(dtype, torch.dtype) or math.prod(shape) > _LARGEST:
        raise ValueError(f"{kind} of {own} and {shape}")
    return torch.full(shape, int(given.get("largest", 0)), dtype=dtype)


def remember_inputs(model: nn.Module, text: str | None) -> None:
    """Leave with a model what it was traced on."""
    if text is not None:
        vars(model)[_ATTRIBUTE] = text


def remembered_inputs(model: nn.Module) -> str | None:
    """What the model was traced on before it was removed from; None where nothing was."""
    text = vars(model).get(_ATTRIBUTE)
    return text if isinstance(text, str) else None
