"""Putting a plan into effect: new parameters, buffers, attributes, gradients and optimizer state, all or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from icycle.surgery._layers import Undo, synchronise
from icycle.surgery._plan import Plan
from icycle.tracing import STAND_INS, Caches, Edit, named_tensors, rewritten

__all__ = ["apply", "exchange", "rewrite", "stand_in", "undoing"]


def apply(
    model: nn.Module,
    plan: Plan,
    optimizers: Sequence[torch.optim.Optimizer] = (),
    averaged: Sequence[nn.Module] = (),
) -> None:
    """Put `plan` into effect on `model`, its optimizers and its averaged copies; an error undoes all that was done."""
    with undoing() as undo:
        _apply(model, plan, optimizers, undo)
        for copy in averaged:
            _apply(copy, plan, (), undo)


def _apply(model: nn.Module, plan: Plan, optimizers: Sequence[torch.optim.Optimizer], undo: Undo) -> None:
    """Prepare every new tensor first, then exchange them."""
    old = dict(named_tensors(model))
    new = {name: _shrunk(name, old[name], plan) for name in plan.kept}
    states = [_shrunk_state(optimizer, old, plan) for optimizer in optimizers]
    exchange(model, new, plan.attributes, undo)
    rewrite(model, plan.edits, undo)
    _drop_caches(model, plan.caches, undo)
    for optimizer, state in zip(optimizers, states, strict=True):
        _exchange_in_optimizer(optimizer, {id(old[name]): new[name] for name in new}, state, undo)


@contextmanager
def undoing() -> Iterator[Undo]:
    """A list for what takes each change back; where the body raises, all of it is taken back, the last change first."""
    undo: Undo = []
    try:
        yield undo
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def exchange(
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    attributes: Mapping[tuple[str, str, int | None], int],
    undo: Undo,
) -> None:
    """Put `tensors` in the place of the parameters and buffers of those names, and set integer attributes."""
    old = dict(named_tensors(model))
    new = {id(old[name]): tensor for name, tensor in tensors.items()}
    for module in model.modules():
        own = (tensor for child in module.modules() for tensor in child.parameters(recurse=False))
        if type(module) in STAND_INS and any(id(tensor) in new for tensor in own):
            stand_in(module, undo)
    _exchange_tensors(model, new, undo)
    _set_attributes(model, attributes, undo)
    synchronise(model, undo)


def stand_in(module: nn.Module, undo: Undo) -> None:
    """Let the class that can lose channels stand in for `module`'s own."""
    _change_class(module, STAND_INS[type(module)], undo)


def rewrite(model: nn.Module, edits: Mapping[str, Sequence[Edit]], undo: Undo) -> None:
    """Make these edits in the code of the modules at these paths, each of which gets a class of its own for it."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, own in edits.items():
        _change_class(modules[path], rewritten(type(modules[path]), own), undo)


def _change_class(module: nn.Module, to: type[nn.Module], undo: Undo) -> None:
    before = type(module)

    def restore() -> None:
        module.__class__ = before

    undo.append(restore)
    module.__class__ = to


def _shrunk(name: str, tensor: torch.Tensor, plan: Plan) -> torch.Tensor:
    """A new tensor: resizing in place would leave a live graph's gradient accumulator with the old shape."""
    data = _take(name, tensor.detach(), plan)
    if not isinstance(tensor, nn.Parameter):
        return data
    parameter = type(tensor)(data, requires_grad=tensor.requires_grad)
    if tensor.grad is not None:
        parameter.grad = _take(name, tensor.grad, plan)
    for key, value in vars(tensor).items():  # markers that training code puts on parameters
        setattr(parameter, key, value)
    return parameter


def _take(name: str, tensor: torch.Tensor, plan: Plan) -> torch.Tensor:
    """What is kept of a tensor shaped like `name`, in the memory format it had."""
    return plan.take(name, tensor).contiguous(memory_format=_memory_format(tensor))


def _memory_format(tensor: torch.Tensor) -> torch.memory_format:
    if tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _exchange_tensors(model: nn.Module, new: dict[int, torch.Tensor], undo: Undo) -> None:
    """Tied parameters are one tensor in several places, and stay one."""
    for module in model.modules():
        for registry in (module._parameters, module._buffers):
            for key, tensor in list(registry.items()):
                if tensor is not None and id(tensor) in new:
                    _set_item(registry, key, new[id(tensor)], undo)


def _set_item(target: Any, key: Any, value: Any, undo: Undo) -> None:
    before = target[key]

    def restore() -> None:
        target[key] = before

    undo.append(restore)
    target[key] = value


def _set_attributes(model: nn.Module, attributes: Mapping[tuple[str, str, int | None], int], undo: Undo) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for (path, name, item), value in attributes.items():
        module = modules[path]
        current = module.__dict__[name]
        if item is None:
            new: Any = value
        else:
            items = list(current)
            items[item] = value
            new = type(current)(items)
        if new != current:
            _set_item(module.__dict__, name, new, undo)


def _drop_caches(model: nn.Module, caches: Caches, undo: Undo) -> None:
    """Results that modules keep in dicts are outdated now."""
    for path, name in caches:
        _set_item(model.get_submodule(path).__dict__, name, {}, undo)


def _shrunk_state(
    optimizer: torch.optim.Optimizer, old: dict[str, torch.Tensor], plan: Plan
) -> dict[int, dict[str, Any]]:
    """id of an old parameter -> its state, with every tensor that is shaped like the parameter shrunk."""
    found: dict[int, dict[str, Any]] = {}
    for name in plan.kept:
        parameter = old[name]
        state = optimizer.state.get(parameter)
        if state:
            found[id(parameter)] = {
                key: _take(name, value, plan)
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape
                else value
                for key, value in state.items()
            }
    return found


def _exchange_in_optimizer(
    optimizer: torch.optim.Optimizer,
    new: dict[int, torch.Tensor],
    state: dict[int, dict[str, Any]],
    undo: Undo,
) -> None:
    for group in optimizer.param_groups:
        params = [new.get(id(parameter), parameter) for parameter in group["params"]]
        _set_item(group, "params", params, undo)
    before = dict(optimizer.state)

    def restore() -> None:
        optimizer.state.clear()
        optimizer.state.update(before)

    undo.append(restore)
    for parameter in list(optimizer.state):
        if id(parameter) in new:
            del optimizer.state[parameter]
            if id(parameter) in state:
                optimizer.state[new[id(parameter)]] = state[id(parameter)]
