"""Freezing: the first layers stay as they are, and cost only a forward pass.

No gradient is wanted before the first layer that trains, so the backward pass ends there by itself; the prefix runs in
evaluation mode, so its outputs depend on nothing but the input. Where the inputs come again, unchanged, so do the
outputs: they are kept, and fed in at the cut (see `Replay`).

Layers are chosen by depth alone. Of a frozen layer behind one that trains only the weights' gradient is saved, a third
of its step; in the prefix two thirds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from torch import nn

from icycle.methods.ice._layers import Call, Layer, execution, layers_of
from icycle.methods.ice._replay import Replay, find_cut
from icycle.structure import Structure

__all__ = ["Frozen", "FrozenLayers", "first_layers"]


def first_layers(layers: Sequence[Layer], share: float) -> tuple[Layer, ...]:
    """The first ceil(share * N) of N layers, in the order of execution; the last one always trains."""
    return tuple(layers[: min(math.ceil(share * len(layers) - 1e-9), len(layers) - 1)])


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
        self._all = tuple(layers)
        self.share = len(frozen) / max(len(layers), 1)
        self._still = {name for layer in frozen for name in layer.modules}
        self._example_inputs = example_inputs
        before = self._calls_before(model)
        self.prefix = tuple(dict.fromkeys(call.name for call in before))
        total = sum(layer.macs for layer in layers) or 1.0
        inside = [layer for layer in frozen if layer.name in self.prefix]
        self.prefix_share = sum(layer.macs for layer in inside) / total
        self.saved = (sum(layer.macs for layer in frozen) / total + self.prefix_share) / 3
        found = find_cut(model, example_inputs, before)
        self.cut = found[0].name if found else None

    def description(self) -> dict[str, Any]:
        """JSON values that `described` makes the same of, for the model as it is by then."""
        return {"layers": [asdict(layer) for layer in self._all], "frozen": [layer.name for layer in self.layers]}

    @classmethod
    def described(cls, model: nn.Module, example_inputs: Any, description: dict[str, Any]) -> Frozen:
        """The layers of a `description`, in a model that may have lost channels since."""
        layers = [Layer(**{**each, "companions": tuple(each["companions"])}) for each in description["layers"]]
        frozen = [layer for layer in layers if layer.name in set(description["frozen"])]
        return cls(model, example_inputs, layers, frozen)

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

    def _calls_before(self, model: nn.Module) -> list[Call]:
        """The calls that end before the first layer that trains begins, of modules that are not called again later."""
        calls = execution(model, self._example_inputs)
        modules = dict(model.named_modules())
        trains = [
            call.start
            for call in calls
            if call.name not in self._still and any(True for _ in modules[call.name].parameters(recurse=False))
        ]
        border = min(trains, default=0)
        late = {call.name for call in calls if call.end > border}
        return [call for call in calls if call.end < border and call.name not in late]

    def replay(self, model: nn.Module) -> Replay | None:
        """What feeds stored outputs in at the cut, found and proven anew: the model may have lost channels since."""
        found = find_cut(model, self._example_inputs, self._calls_before(model))
        return Replay(model, *found) if found else None


class FrozenLayers:
    """The layers of these `names`, chosen once, in a network that goes on losing channels."""

    def __init__(self, names: Sequence[str], example_inputs: Any) -> None:
        self.names = tuple(names)
        self._example_inputs = example_inputs
        self._found: tuple[Structure, Frozen] | None = None

    def within(self, model: nn.Module, structure: Structure) -> Frozen | None:
        """They in `model`, which has this structure now: what they save changes with it. None where there are none."""
        if not self.names:
            return None
        if self._found is None or self._found[0] is not structure:
            layers = layers_of(model, self._example_inputs)
            frozen = [layer for layer in layers if layer.name in self.names]
            self._found = structure, Frozen(model, self._example_inputs, layers, frozen)
        return self._found[1]
