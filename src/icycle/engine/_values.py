"""Values to test a structure on: weights and inputs in which no zero, no one and no symmetry hides anything."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from icycle.structure import Structure
from icycle.tracing import copy_of, flat_tensors, map_tensors, named_tensors

__all__ = ["ADVANCE", "UnitScale", "new_inputs", "new_weights"]

ADVANCE = ("random", "near", "own")
"""Kinds of weights, each tried where the model does not run, or gives no numbers, on those before: random ones, the
model's own but every one scaled at random, the model's own as they are."""

_PERIOD = 65_537  # a prime: rows of a weight that is filled with a repeated block are not equal
_UNIFORM = {"scale": (0.5, 1.5), "variance": (0.5, 1.5), "shift": (-0.3, 0.3), "state": (-0.5, 0.5)}


def new_weights(
    model: nn.Module, structure: Structure, kind: str, dtype: torch.dtype | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What gives every tensor of `model` one of its shape that takes its place in a copy, floats in `dtype` (None: in
    the type that they have). The same arguments give the same weights."""
    names = {id(tensor): name for name, tensor in named_tensors(model)}
    source = _Source(_roles(structure), dtype)

    def replace(tensor: torch.Tensor) -> torch.Tensor:
        data, name = tensor.detach(), names.get(id(tensor))
        parameter = isinstance(tensor, nn.Parameter)
        if not (data.is_floating_point() or data.is_complex()) or data.layout != torch.strided:
            made = data.clone()
        elif kind == "own" or name is None:
            made = data.to(_type(data, dtype), copy=True)
        elif kind == "near":
            made = source.near(data)
        else:
            made = source.new(name, data, parameter)
        return nn.Parameter(made, requires_grad=False) if parameter else made

    return replace


def _roles(structure: Structure) -> Mapping[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for group in structure.groups:
        for piece in group.slices:
            found.setdefault(piece.parameter, {})[piece.dim] = piece.role
    return found


def _type(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return tensor.dtype
    return dtype.to_complex() if tensor.is_complex() else dtype


@functools.cache
def _noise() -> tuple[torch.Tensor, torch.Tensor]:
    """Normal, and uniform from 0 to 1: a block of each, twice, so that a piece can start anywhere."""
    dice = torch.Generator().manual_seed(0)
    normal = torch.randn(_PERIOD, generator=dice, dtype=torch.float64, device="cpu")
    return normal.repeat(2), torch.rand(_PERIOD, generator=dice, dtype=torch.float64, device="cpu").repeat(2)


class _Source:
    """Random tensors, written as fast as memory takes them: one block of noise, scaled and repeated, each tensor from
    another place in it."""

    def __init__(self, roles: Mapping[str, dict[int, str]], dtype: torch.dtype | None) -> None:
        self._normal, self._flat = _noise()
        self._roles = roles
        self._dtype = dtype
        self._place = 0

    def new(self, name: str, like: torch.Tensor, parameter: bool) -> torch.Tensor:
        """By the part that the tensor plays. Weights have the variance 1 / inputs, so that what goes through keeps its
        size; the running variance is positive."""
        roles = self._roles.get(name, {})
        role = roles.get(0, "other")
        if like.dim() == 1 and role in _UNIFORM:
            low, high = _UNIFORM[role]
            return self._filled(like, self._flat, high - low, low)
        if like.dim() > 1 and parameter:
            outputs = [dim for dim, role in roles.items() if role == "out"]
            known = outputs or "in" in roles.values()
            inputs = prod(size for dim, size in enumerate(like.shape) if dim not in (outputs or [0]))
            return self._filled(like, self._normal, max(inputs, 1) ** -0.5 if known else 1.0)
        first = like.reshape(-1)[:1]
        if first.numel() and bool(first.isfinite().all()) and not like.is_complex() and bool((like == first).all()):
            return self._around(like, float(first), parameter)
        return self.near(like)

    def near(self, like: torch.Tensor) -> torch.Tensor:
        """Every element keeps its sign, and zeros stay."""
        return self._filled(like, self._flat, 0.25, 0.75) * like.to(_type(like, self._dtype))

    def _around(self, like: torch.Tensor, value: float, parameter: bool) -> torch.Tensor:
        """In the place of one number everywhere, with which layers start. A tiny one, as a layer's scale may be, would
        hide what comes through."""
        if value == 0:
            return self._filled(like, self._flat, 1, -0.5)
        size = (1.0 if value > 0 else -1.0) if parameter else value
        return self._filled(like, self._flat, size, size / 2)

    def _filled(self, like: torch.Tensor, noise: torch.Tensor, factor: float, offset: float = 0.0) -> torch.Tensor:
        """`offset` + `factor` times the noise."""
        made = torch.empty_like(like, dtype=_type(like, self._dtype))
        flat = made.as_strided((made.numel(),), (1,))
        flat = torch.view_as_real(flat).view(-1) if made.is_complex() else flat
        size, start = flat.numel(), self._place
        self._place = (start + size) % _PERIOD
        block = noise[start : start + min(size, _PERIOD)] * factor
        block = block.add_(offset) if offset else block
        if size <= _PERIOD:
            flat.copy_(block)
            return made
        block = block.to(device=flat.device, dtype=flat.dtype)
        whole = size // _PERIOD * _PERIOD
        flat[:whole].view(-1, _PERIOD).copy_(block)
        flat[whole:] = block[: size - whole]
        return made


def new_inputs(inputs: Any, kind: str, dtype: torch.dtype | None) -> Any:
    """Inputs like these, floats in `dtype`: random within the range that they have, save where that is not finite.
    Integers and booleans, which may be numbers of something, keep their values."""
    dice = torch.Generator().manual_seed(1)

    def replace(tensor: torch.Tensor) -> torch.Tensor:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor
        made = tensor.to(_type(tensor, dtype), copy=True)
        if kind == "own" or tensor.is_complex() or not tensor.numel() or not bool(tensor.isfinite().all()):
            return made
        low, high = (float(end) for end in tensor.aminmax())
        if low == high:
            low, high = low - max(abs(low), 1) / 2, high + max(abs(high), 1) / 2
        noise = torch.rand(tensor.shape, generator=dice, dtype=torch.float64, device="cpu")
        return made.copy_(low + (high - low) * noise)

    return map_tensors(copy_of(inputs), replace)


_LINEAR = frozenset("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split())


class UnitScale(TorchFunctionMode):
    """In a first run, gives every linear map whose result is far too large or too small a weight and a bias with which
    its root mean square is 1, so that a hundred layers neither vanish nor explode (Mishkin & Matas, ICLR 2016).

    Only a weight that nothing has used before, so that whoever runs the model again computes the same. `factors` is
    what every parameter (by its number among `parameters`) was multiplied with.
    """

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        super().__init__()
        self._fresh = {id(tensor): number for number, tensor in enumerate(parameters)}
        self.factors: dict[int, float] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        own = [tensor for tensor in flat_tensors((args, kwargs)) if id(tensor) in self._fresh]
        if own:
            if getattr(func, "__name__", "") in _LINEAR:
                self._rescale(args, kwargs, result)
            for tensor in own:
                self._fresh.pop(id(tensor), None)
        return result

    def _rescale(self, args: Any, kwargs: Any, result: torch.Tensor) -> None:
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        given = [tensor for tensor in (weight, bias) if tensor is not None]
        if any(id(tensor) not in self._fresh for tensor in given):
            return
        size = float(torch.linalg.vector_norm(result)) / max(result.numel(), 1) ** 0.5
        if 0.5 <= size <= 2 or not 1e-30 < size < 1e30:
            return
        for tensor in (*given, result):
            tensor.mul_(1 / size)
        self.factors.update({self._fresh[id(tensor)]: 1 / size for tensor in given})
