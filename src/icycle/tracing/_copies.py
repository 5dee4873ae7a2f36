"""Copies of a model, with other tensors in the place of its own."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from icycle.errors import TraceError
from icycle.tracing._closures import rebind
from icycle.tracing._hooks import watchers
from icycle.tracing._modules import named_modules, named_tensors

__all__ = ["Caches", "copy_of", "duplicate"]

Copied = TypeVar("Copied")
Caches = frozenset[tuple[str, str]]  # (module path, attribute) of dicts in which modules keep results


def copy_of(value: Copied) -> Copied:
    """A whole copy of a model, or of its inputs: copy.deepcopy, which refuses tensors that were computed (a weight
    under weight norm)."""
    memo: dict[int, Any] = {}
    with _CopyTensors(lambda tensor: tensor.detach().clone()):
        made = copy.deepcopy(value, memo)
        rebind(memo)
    return made


def duplicate(
    model: nn.Module, replace: Callable[[torch.Tensor], torch.Tensor], caches: Caches = frozenset(), hooks: bool = False
) -> nn.Module:
    """A copy of `model` with `replace(tensor)` in the place of every tensor in it; its `caches` are empty.

    Of the hooks only those stay that are part of what the model computes, or with `hooks` all.
    """
    memo: dict[int, Any] = {id(tensor): replace(tensor) for _, tensor in named_tensors(model)}
    try:
        with _CopyTensors(replace):
            made, start, holding = _copied_modules(model, memo)
    except Exception as error:
        raise TraceError(
            f"Expected a model whose modules can be copied (without their weights), but copy.deepcopy raised "
            f"{type(error).__name__}: {error}. Remove the attribute that cannot be copied before tracing."
        ) from error
    if not hooks:
        for _, module in list(named_modules(made)):
            for registry, key in list(watchers(module)):
                del registry[key]
    with _CopyTensors(replace):
        rebind(memo, start, holding)
    for path, name in caches:
        setattr(made.get_submodule(path), name, {})
    return made


def _copied_modules(model: nn.Module, memo: dict[int, Any]) -> tuple[nn.Module, int, list[nn.Module]]:
    """What `copy.deepcopy(model, memo)` gives, in two loops: a module is two dozen attributes, of which half are empty
    registries of hooks, and most others are numbers. Then what `rebind` has to know."""
    states = [(module, state) for _, module in named_modules(model) if (state := _state(module)) is not None]
    for module, _ in states:
        memo[id(module)] = type(module).__new__(type(module))
    memo[id(memo)] = [states]  # alive, as deepcopy keeps what it has met: nothing else may get their ids
    simple = [_simple(state, memo) for _, state in states]
    start, holding = len(memo), []
    for (module, state), own in zip(reversed(states), reversed(simple), strict=True):  # what is inside first
        made = memo[id(module)]
        if len(own) < len(state):
            own = {name: own[name] if name in own else copy.deepcopy(value, memo) for name, value in state.items()}
            holding.append(made)
        elif type(module).__setstate__ is not nn.Module.__setstate__:
            holding.append(made)
        made.__setstate__(own)
    return copy.deepcopy(model, memo), start, holding


def _state(module: nn.Module) -> dict[str, Any] | None:
    """The attributes that make a module; None where its class is copied in a way of its own."""
    kind = type(module)
    if hasattr(kind, "__deepcopy__") or kind in copyreg.dispatch_table:
        return None
    reduced: Any = module.__reduce_ex__(4)  # what makes it, arguments of that, attributes, further items
    if len(reduced) < 3 or reduced[0] is not copyreg.__newobj__ or reduced[1] != (kind,) or any(reduced[3:]):  # type: ignore[attr-defined]
        return None
    return reduced[2] if isinstance(reduced[2], dict) else None


_ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device))
_CONTAINERS = frozenset((dict, set, OrderedDict))


def _simple(state: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """Copies of the attributes that are made of nothing but atoms and what `memo` has; containers are added to it."""
    own = {}
    for name, value in state.items():
        kind = type(value)
        if kind in _ATOMS or (kind is tuple and _ATOMS.issuperset(map(type, value))):
            own[name] = value
            continue
        known = memo.get(id(value))  # two modules may share one
        if known is None and kind in _CONTAINERS:
            known = _remade(kind, value, memo)
        if known is not None:
            own[name] = memo[id(value)] = known
    return own


def _remade(kind: Any, value: Any, memo: dict[int, Any]) -> Any:
    """A container with copies of the items; None where one of them is neither an atom nor in `memo`."""
    if not value:
        return kind()
    if kind is OrderedDict or not _ATOMS.issuperset(map(type, value)):
        return None
    if kind is set:
        return set(value)
    if not all(type(item) in _ATOMS or id(item) in memo for item in value.values()):
        return None
    return {key: memo.get(id(item), item) for key, item in value.items()}


class _CopyTensors(TorchFunctionMode):
    """While copying, tensors that are neither parameters nor buffers are replaced like those."""

    def __init__(self, replace: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._replace = replace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            return memo.setdefault(id(tensor), self._replace(tensor))
        return func(*args, **(kwargs or {}))
