"""The rehearsal: a plan is applied to a shadow of the model, which is run, before the model itself is touched."""

from __future__ import annotations

from typing import Any

from torch import nn

from icycle.structure import Example, Structure
from icycle.surgery._apply import apply
from icycle.surgery._plan import Plan
from icycle.tracing import output_tensors, run_shadow, shadow_of, undisturbed

__all__ = ["rehearse"]


def rehearse(model: nn.Module, structure: Structure, plan: Plan) -> str | None:
    """Apply `plan` to a shadow of `model` and run that in eval mode on every example; what goes wrong, or None.

    The outputs must have the shapes that the whole model's had, except where a run on real values decides them.
    """
    example = structure.example
    if example is None:  # the structure was not traced, but put together by hand
        return None
    for number, (inputs, expected) in enumerate(((example.inputs, example.output_shapes), *example.also), 1):
        shapes = _shapes(model, structure, plan, example, inputs)
        where = f"on example {number}, " if example.also else ""
        if isinstance(shapes, str):
            return where + shapes
        if example.meta and shapes != expected:
            return f"{where}the outputs have the shapes {shapes} instead of {expected}"
    return None


def _shapes(
    model: nn.Module, structure: Structure, plan: Plan, example: Example, inputs: Any
) -> tuple[tuple[int, ...], ...] | str:
    """Of the outputs of a run after the plan; in words what it raises."""
    with undisturbed(model):
        shadow = shadow_of(model, example.meta, structure.caches, example.hooks).eval()
        try:
            apply(shadow, plan)
            result = run_shadow(shadow, inputs, lambda *observed: None, example.meta)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return tuple(tuple(tensor.shape) for tensor in output_tensors(result))
