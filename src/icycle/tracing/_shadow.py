"""A shadow of the model: the same modules, with tensors that hold no data (or alias the real ones), to be run
freely."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from icycle.axes import Dim
from icycle.errors import TraceError
from icycle.tracing._copies import Caches, duplicate
from icycle.tracing._modules import named_modules
from icycle.tracing._sizes import FromAttribute, FromDim, TracedInt, Used
from icycle.tracing._standins import STAND_INS

__all__ = [
    "following_paths",
    "refusing_the_original",
    "remember_attributes",
    "reusable",
    "shadow_of",
    "tensor_dicts",
]


def shadow_of(model: nn.Module, meta: bool, caches: Caches, hooks: bool = False) -> nn.Module:
    """A copy of `model` that shares no state with it and copies no weight; its `caches` are empty.

    With `meta`, floating-point tensors become tensors on the meta device; else aliases of the real ones. Integer
    tensors and buffers, which code reads as values or updates in place, are cloned. Hooks: as in `duplicate`.
    """
    shadow = duplicate(model, lambda tensor: _stand_in(tensor, meta), caches, hooks)
    for _, module in named_modules(shadow):
        module.__class__ = STAND_INS.get(type(module), type(module))
    return shadow


def tensor_dicts(model: nn.Module) -> Caches:
    """The dicts of tensors that modules keep beside their parameters and buffers."""
    return frozenset(
        (path, name)
        for path, module in named_modules(model)
        for name in vars(module).keys() - _EVERY_MODULE
        if type(value := vars(module)[name]) is dict and value
        if all(isinstance(item, torch.Tensor) for item in value.values())
    )


_EVERY_MODULE = frozenset(vars(nn.Module()))  # what each has: registries and switches


def _stand_in(tensor: torch.Tensor, meta: bool) -> torch.Tensor:
    data = tensor.detach()
    if not (data.is_floating_point() or data.is_complex()):
        data = data.clone()
    elif meta:
        data = torch.empty_strided(data.shape, data.stride(), dtype=data.dtype, device="meta")
    elif not isinstance(tensor, nn.Parameter):
        data = data.clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=False)
    return data


# torch's layers: the attributes that tell the shape of their weight, which a removal sets, and the dimension each tells
_WEIGHT_SIZES: tuple[tuple[type[nn.Module], dict[str, int]], ...] = (
    (_ConvTransposeNd, {"in_channels": 0, "out_channels": 1}),
    (_ConvNd, {"out_channels": 0, "in_channels": 1}),
    (nn.Linear, {"out_features": 0, "in_features": 1}),
    (nn.Embedding, {"num_embeddings": 0, "embedding_dim": 1}),
    (_NormBase, {"num_features": 0}),
    (nn.GroupNorm, {"num_channels": 0}),
)


def remember_attributes(shadow: nn.Module, used: Used, dims: Callable[[torch.Tensor], tuple[Dim, ...]]) -> None:
    """Replace the integer attributes of every module, also inside tuples and lists, by ints that know their name, or
    the dimension of the weight that they tell, and tell `used` when they serve as numbers."""
    for path, module in named_modules(shadow):
        told = _told_sizes(module, dims)
        for name, value in vars(module).items():
            if type(value) is int:
                own = FromAttribute((path, name, None), value, used)
                module.__dict__[name] = TracedInt(value, FromDim(told[name], used) if name in told else own)
            elif type(value) in (tuple, list, torch.Size) and any(type(item) is int for item in value):
                items = [
                    TracedInt(item, FromAttribute((path, name, place), item, used)) if type(item) is int else item
                    for place, item in enumerate(value)
                ]
                module.__dict__[name] = type(value)(items)


@functools.lru_cache(maxsize=256)
def _places(layer: Any) -> dict[str, int]:
    return next((places for kind, places in _WEIGHT_SIZES if issubclass(layer, kind)), {})


def _told_sizes(module: nn.Module, dims: Callable[[torch.Tensor], tuple[Dim, ...]]) -> dict[str, Dim]:
    weight, places = module._parameters.get("weight"), _places(type(module))  # type: ignore[arg-type]
    if weight is None or not places:
        return {}
    own = dims(weight)
    same = {name: place for name, place in places.items() if getattr(module, name, None) == own[place].size}
    return {name: own[place] for name, place in same.items()}  # with groups, one of the two is a multiple


@contextmanager
def following_paths(shadow: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the path of the module that is running on top of `stack`."""
    paths = {id(module): path for path, module in named_modules(shadow)}

    def enter(module: nn.Module, args: Any) -> None:
        if id(module) in paths:
            stack.append(paths[id(module)])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if id(module) in paths:
            stack.pop()

    handles = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def refusing_the_original(model: nn.Module) -> Iterator[None]:
    """Raise TraceError where a copy's code calls a module of the model itself, which it reached by a global, say: it
    would be changed by the run, and its channels would go unseen."""
    paths = {id(module): path for path, module in named_modules(model)}

    def refuse(module: nn.Module, args: Any) -> None:
        if id(module) in paths:
            raise TraceError(
                f"Expected the code of {type(model).__name__} to reach its modules through `self`, but it reaches "
                f"{paths[id(module)] or 'the model'} ({type(module).__name__}) in another way, through a global or a "
                "class attribute, say, so that a copy of the model runs the original. Keep it in an attribute alone."
            )

    handle = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def reusable(shadow: nn.Module) -> Iterator[None]:
    """Take back what a run leaves in the attributes of modules: results that they cache."""
    before = [(vars(module), _shallow(vars(module))) for _, module in named_modules(shadow)]
    yield
    for attributes, own in before:
        attributes.clear()
        attributes.update(own)


def _shallow(attributes: dict[str, Any]) -> dict[str, Any]:
    """With copies of the containers among the values."""
    own = dict(attributes)
    for name, value in attributes.items():
        kind = type(value)
        if kind is OrderedDict or kind is dict:  # registries, mostly: copy.copy takes the long way
            own[name] = value.copy()
        elif isinstance(value, (dict, list, set)):
            own[name] = copy.copy(value)
    return own
