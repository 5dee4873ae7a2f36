"""Running a model from one of its modules on, and the proof that this module is enough for it.

The *cut* of a prefix is the last module that everything after the prefix depends on the prefix through. Which module
that is cannot be read off a model in general. So it is guessed from the order of execution and then proven: all before
the cut is replaced by NaN, and the model's output must stay the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from icycle.methods.ice._layers import Call
from icycle.probing import in_eval_mode
from icycle.tracing import call_with, map_tensors, output_tensors, undisturbed

__all__ = ["Replay", "find_cut"]

_CANDIDATES = 16  # cuts that are tried, the deepest first


def find_cut(model: nn.Module, example_inputs: Any, before: Sequence[Call]) -> tuple[Call, tuple[Call, ...]] | None:
    """The deepest module among the calls of a prefix that the proof holds for, and those that are skipped for it."""
    times = {call.name: sum(other.name == call.name for other in before) for call in before}
    candidates = [call for call in before if times[call.name] == 1 and call.shape is not None and call.name]
    for cut in sorted(candidates, key=lambda call: (-call.end, call.start))[:_CANDIDATES]:
        earlier = [call for call in candidates if call.end < cut.start]
        outer = [call for call in earlier if not any(_within(call, other) for other in earlier)]
        if _proven(model, example_inputs, cut, outer):
            return cut, tuple(outer)
    return None


class Replay:
    """Runs a model from its cut on, given the cut's outputs; used as a context manager around such runs.

    `feed` gives the outputs for the next forward pass, whose inputs may then be anything of the right batch size. With
    None fed, the model runs as it is.
    """

    def __init__(self, model: nn.Module, cut: Call, skipped: Sequence[Call]) -> None:
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


def _within(call: Call, other: Call) -> bool:
    return other is not call and other.start < call.start and call.end < other.end


@torch.no_grad()
def _proven(model: nn.Module, example_inputs: Any, cut: Call, skipped: Sequence[Call]) -> bool:
    """Is the output the same, to the bit, when all that the model sees before the cut, its input too, is NaN?"""
    replay = Replay(model, cut, skipped)
    with undisturbed(model), in_eval_mode(model):
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
