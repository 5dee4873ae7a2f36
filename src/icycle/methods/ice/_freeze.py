"""Freezing: the layers that a probe moved least stay as they are; the deepest all-frozen prefix costs only a forward.

No gradient is wanted before the first layer that trains, so the backward pass ends there by itself; the prefix runs in
evaluation mode, so its outputs depend on nothing but the input. Where the inputs come again, unchanged, so do the
outputs: they are kept, and fed in at the *cut*, the last module that everything after the prefix depends on the prefix
through. Which module that is cannot be read off a model in general. So it is guessed from the order of execution and
then proven: all before the cut is replaced by NaN, and the model's output must stay the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from icycle.tracing import call_with, map_tensors, output_tensors, undisturbed

__all__ = ["Frozen", "Layer", "Replay", "choose_frozen", "layers_of", "movement", "weights_of"]

_CANDIDATES = 16  # cuts that are tried, the deepest first


@dataclass(frozen=True)
class Layer:
    """A module that owns weights, and the norms that follow it before the next one does.

    `macs` are per example input, for weights that slide over positions or multiply vectors; relative ones are all that
    is asked of them.
    """

    name: str
    companions: tuple[str, ...]
    macs: float

    @property
    def modules(self) -> tuple[str, ...]:
        return (self.name, *self.companions)


@dataclass
class _Call:
    """One run of a module within a forward pass: when it began and ended, and what it returned."""

    name: str
    start: int
    end: int = -1
    shape: torch.Size | None = None  # of a result that is one tensor


def _execution(model: nn.Module, example_inputs: Any) -> list[_Call]:
    """The calls of all modules in one forward pass, by their beginning."""
    calls: list[_Call] = []
    running: list[_Call] = []
    moment = 0

    def tick() -> int:
        nonlocal moment
        moment += 1
        return moment

    def enter(name: str, module: nn.Module, inputs: Any) -> None:
        running.append(_Call(name, tick()))
        calls.append(running[-1])

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        call = running.pop()
        call.end = tick()
        call.shape = output.shape if isinstance(output, torch.Tensor) else None

    handles = []
    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(partial(enter, name)), module.register_forward_hook(leave)]
    try:
        with _eval_mode(model), torch.no_grad():
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
    seen: set[str] = set()
    for call in _execution(model, example_inputs):
        own = list(modules[call.name].parameters(recurse=False))
        if not own:
            continue
        weights = [parameter for parameter in own if parameter.dim() > 1]
        macs[call.name] = macs.get(call.name, 0.0) + sum(_uses(weight, call.shape) for weight in weights)
        if call.name in seen:
            continue
        seen.add(call.name)
        if weights or not found:
            found[call.name] = []
        else:
            found[next(reversed(found))].append(call.name)
    return tuple(Layer(name, tuple(companions), macs[name]) for name, companions in found.items())


def _uses(weight: torch.Tensor, output: torch.Size | None) -> float:
    """Multiplications of a weight (out, ...) whose layer gives an output of this shape, by channel first or last."""
    if output is None or len(output) < 2:
        return float(weight.numel())
    return weight.numel() * math.prod(output) / (output[0] * max(weight.shape[0], 1))


def weights_of(model: nn.Module, layers: Sequence[Layer]) -> dict[str, list[torch.Tensor]]:
    """A copy of the weights that each layer's own module holds."""
    modules = dict(model.named_modules())
    return {
        layer.name: [parameter.detach().clone() for parameter in modules[layer.name].parameters(recurse=False)]
        for layer in layers
    }


def movement(
    before: Mapping[str, list[torch.Tensor]],
    after: Mapping[str, list[torch.Tensor]],
    formula: Literal["distance", "published"] = "distance",
) -> dict[str, float]:
    """How far each layer's weights W moved, relative to their size.

    "distance" is ||W_after - W_before|| / ||W_before||. "published" is | sum|W_after| - sum|W_before| | / ||W_before||,
    in which weights that grow and weights that shrink cancel out.
    """
    return {name: _moved(before[name], after[name], formula) for name in before}


def _moved(before: list[torch.Tensor], after: list[torch.Tensor], formula: str) -> float:
    old = torch.cat([weight.double().flatten() for weight in before])
    new = torch.cat([weight.double().flatten() for weight in after])
    size = float(old.norm())
    moved = float((new - old).norm()) if formula == "distance" else abs(float(new.abs().sum() - old.abs().sum()))
    return moved / size if size > 0 else math.inf


def choose_frozen(
    layers: Sequence[Layer], moved: Mapping[str, float], share: float, *, ends_train: bool = False
) -> tuple[Layer, ...]:
    """The ceil(share * N) of N layers that moved least, in the order of execution; the last one always trains.

    With `ends_train` the first does too (the published code). Source: ICE-Pruning, arXiv 2505.07411.
    """
    count = math.ceil(share * len(layers) - 1e-9)
    candidates = layers[1 if ends_train else 0 : -1]
    chosen = {layer.name for layer in sorted(candidates, key=lambda layer: moved[layer.name])[:count]}
    return tuple(layer for layer in layers if layer.name in chosen)


class Frozen:
    """Layers of a model that do not train, and what of it runs before anything that does.

    Attributes:
        share: of all layers, 0..1.
        saved: the share of a training step's multiplications that the frozen layers save, 0..1: a third for a layer
            whose weights need no gradient, two thirds where nothing before it trains either.
        prefix: names of the modules that run wholly before the first layer that trains; () if that comes first.
        cut: the module whose outputs can stand in for the prefix; None where the model's structure does not allow it
            (the backward pass still ends at the prefix).
    """

    def __init__(self, model: nn.Module, example_inputs: Any, layers: Sequence[Layer], frozen: Sequence[Layer]) -> None:
        self.layers = tuple(frozen)
        self.share = len(frozen) / max(len(layers), 1)
        self._still = {name for layer in frozen for name in layer.modules}
        self._example_inputs = example_inputs
        before = self._calls_before(model)
        self.prefix = tuple(dict.fromkeys(call.name for call in before))
        total = sum(layer.macs for layer in layers) or 1.0
        inside = [layer for layer in frozen if layer.name in self.prefix]
        self.prefix_share = sum(layer.macs for layer in inside) / total
        self.saved = (sum(layer.macs for layer in frozen) / total + self.prefix_share) / 3
        found = self._find_cut(model, before)
        self.cut = found[0].name if found else None

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the block the layers do not train, and the prefix stays in evaluation mode whatever `train()` says."""
        modules = dict(model.named_modules())
        parameters = [
            parameter
            for name in self._still
            for parameter in modules[name].parameters(recurse=False)
            if parameter.requires_grad
        ]
        still = [modules[name] for name in self.prefix]
        modes = [module.training for module in still]

        def keep_still(module: nn.Module, inputs: Any) -> None:
            for each in still:
                each.training = False

        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None  # an optimizer passes over what has none, momentum and weight decay included
        handle = model.register_forward_pre_hook(keep_still)
        try:
            yield
        finally:
            handle.remove()
            for parameter in parameters:
                parameter.requires_grad_(True)
            for module, mode in zip(still, modes, strict=True):
                module.training = mode

    def _calls_before(self, model: nn.Module) -> list[_Call]:
        """The calls that end before the first layer that trains begins, of modules that are not called again later."""
        calls = _execution(model, self._example_inputs)
        modules = dict(model.named_modules())
        trains = [
            call.start
            for call in calls
            if call.name not in self._still and any(True for _ in modules[call.name].parameters(recurse=False))
        ]
        border = min(trains, default=0)
        late = {call.name for call in calls if call.end > border}
        return [call for call in calls if call.end < border and call.name not in late]

    def _find_cut(self, model: nn.Module, before: Sequence[_Call]) -> tuple[_Call, tuple[_Call, ...]] | None:
        """The deepest module of the prefix that the proof holds for, and those that are skipped for it."""
        times = {call.name: sum(other.name == call.name for other in before) for call in before}
        candidates = [call for call in before if times[call.name] == 1 and call.shape is not None and call.name]
        for cut in sorted(candidates, key=lambda call: (-call.end, call.start))[:_CANDIDATES]:
            earlier = [call for call in candidates if call.end < cut.start]
            outer = [call for call in earlier if not any(_within(call, other) for other in earlier)]
            if _proven(model, self._example_inputs, cut, outer):
                return cut, tuple(outer)
        return None

    def replay(self, model: nn.Module) -> Replay | None:
        """What feeds stored outputs in at the cut, found and proven anew: the model may have lost channels since."""
        found = self._find_cut(model, self._calls_before(model))
        return Replay(model, *found) if found else None


class Replay:
    """Runs a model from its cut on, given the cut's outputs; used as a context manager around such runs.

    `feed` gives the outputs for the next forward pass, whose inputs may then be anything of the right batch size. With
    None fed, the model runs as it is.
    """

    def __init__(self, model: nn.Module, cut: _Call, skipped: Sequence[_Call]) -> None:
        modules = dict(model.named_modules())
        assert cut.shape is not None
        self._batch = cut.shape[0]
        self._cut = modules[cut.name]
        self._skipped = [(modules[call.name], call.shape) for call in skipped if call.shape is not None]
        self._fed: torch.Tensor | None = None

    def feed(self, outputs: torch.Tensor | None) -> None:
        self._fed = outputs

    def __enter__(self) -> Replay:
        for module, shape in self._skipped:
            module.forward = partial(self._nothing, module.forward, shape)
        self._cut.forward = partial(self._outputs, self._cut.forward)
        return self

    def __exit__(self, *exception: object) -> None:
        self.feed(None)
        for module in (*(module for module, _ in self._skipped), self._cut):
            del module.forward  # the instance's own; the class's is there again

    def _nothing(self, forward: Callable[..., Any], shape: torch.Size, *args: Any, **kwargs: Any) -> Any:
        """NaN, should anything read it after all; one number stands for the whole tensor."""
        if self._fed is None:
            return forward(*args, **kwargs)
        batch = shape[0] * len(self._fed) // self._batch
        return self._fed.new_full((1,) * len(shape), math.nan).expand(batch, *shape[1:])

    def _outputs(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self._fed is None else self._fed

    @torch.no_grad()
    def outputs(self, run: Callable[[], Any]) -> torch.Tensor:
        """What the cut returns within `run()`, a forward pass of the model, which ends there."""
        found: list[torch.Tensor] = []

        def stop(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            found.append(output.detach())
            raise _Reached

        handle = self._cut.register_forward_hook(stop)
        try:
            run()
        except _Reached:
            pass
        finally:
            handle.remove()
        return found[0]


class _Reached(Exception):  # noqa: N818 - a signal
    """The cut has been reached."""


def _within(call: _Call, other: _Call) -> bool:
    return other is not call and other.start < call.start and call.end < other.end


@torch.no_grad()
def _proven(model: nn.Module, example_inputs: Any, cut: _Call, skipped: Sequence[_Call]) -> bool:
    """Is the output the same, to the bit, when all that the model sees before the cut, its input too, is NaN?"""
    replay = Replay(model, cut, skipped)
    with undisturbed(model), _eval_mode(model):
        inputs = map_tensors(example_inputs, _anything)
        nothing = map_tensors(inputs, _nothing_like)
        expected = list(output_tensors(call_with(model, inputs)))
        outputs = replay.outputs(lambda: call_with(model, inputs))
        try:
            with replay:
                replay.feed(outputs)
                found = list(output_tensors(call_with(model, nothing)))
        except Exception:  # whatever a model does with NaN or a shape it does not expect
            return False
    return bool(found) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def _anything(tensor: torch.Tensor) -> torch.Tensor:
    return torch.rand_like(tensor) if tensor.is_floating_point() else tensor


def _nothing_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, math.nan) if tensor.is_floating_point() else tensor


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
