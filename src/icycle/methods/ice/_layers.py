"""A model's layers, in the order in which they run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from icycle.probing import in_eval_mode
from icycle.tracing import call_with

__all__ = ["Call", "Layer", "execution", "layers_of"]


@dataclass(frozen=True)
class Layer:
    """A module that owns weights, and the norms that follow it before the next one does.

    `macs` are per example input, for weights that slide over positions or multiply vectors; relative ones are all that
    is asked of them. `slides`: it has such weights as slide, those of a convolution.
    """

    name: str
    companions: tuple[str, ...]
    macs: float
    slides: bool = False

    @property
    def modules(self) -> tuple[str, ...]:
        return (self.name, *self.companions)


@dataclass
class Call:
    """One run of a module within a forward pass: when it began and ended, and what it returned."""

    name: str
    start: int
    end: int = -1
    shape: torch.Size | None = None  # of a result that is one tensor


def execution(model: nn.Module, example_inputs: Any) -> list[Call]:
    """The calls of all modules in one forward pass, by their beginning."""
    calls: list[Call] = []
    running: list[Call] = []
    moment = 0

    def tick() -> int:
        nonlocal moment
        moment += 1
        return moment

    def enter(name: str, module: nn.Module, inputs: Any) -> None:
        running.append(Call(name, tick()))
        calls.append(running[-1])

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        call = running.pop()
        call.end = tick()
        call.shape = output.shape if isinstance(output, torch.Tensor) else None

    handles = []
    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(partial(enter, name)), module.register_forward_hook(leave)]
    try:
        with in_eval_mode(model), torch.no_grad():
            call_with(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def layers_of(model: nn.Module, example_inputs: Any) -> tuple[Layer, ...]:
    """The layers of a model in the order of execution; a layer that runs several times counts once."""
    modules = dict(model.named_modules())
    found: dict[str, list[str]] = {}
    macs: dict[str, float] = {}
    slides: dict[str, bool] = {}
    for call in execution(model, example_inputs):
        own = list(modules[call.name].parameters(recurse=False))
        if not own:
            continue
        weights = [parameter for parameter in own if parameter.dim() > 1]
        macs[call.name] = macs.get(call.name, 0.0) + sum(_uses(weight, call.shape) for weight in weights)
        if call.name in slides:
            continue
        slides[call.name] = any(weight.dim() > 2 for weight in weights)
        if weights or not found:
            found[call.name] = []
        else:
            found[next(reversed(found))].append(call.name)
    return tuple(Layer(name, tuple(companions), macs[name], slides[name]) for name, companions in found.items())


def _uses(weight: torch.Tensor, output: torch.Size | None) -> float:
    """Multiplications of a weight (out, ...) whose layer gives an output of this shape, by channel first or last."""
    if output is None or len(output) < 2:
        return float(weight.numel())
    return weight.numel() * math.prod(output) / (output[0] * max(weight.shape[0], 1))
