"""The rehearsal: a plan is applied to a shadow of the model, which is run, before the model itself is touched."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from icycle.errors import SurgeryError
from icycle.structure import Example, Structure
from icycle.surgery._apply import apply
from icycle.surgery._plan import Plan
from icycle.tracing import map_tensors, output_tensors, run_shadow, shadow_of, undisturbed

__all__ = ["rehearse"]


def rehearse(model: nn.Module, structure: Structure, plan: Plan) -> str | None:
    """Apply `plan` to a shadow of `model` and run that in eval mode on every example; what goes wrong, or None.

    The outputs must have the shapes that the whole model's had, except where a run on real values decides them. A model
    that was cast to another type since it was traced gets its inputs in that type. Raises SurgeryError where it does
    not run on them even whole.
    """
    example = structure.example
    if example is None:  # the structure was not traced, but put together by hand
        return None
    for number, (inputs, expected) in enumerate(((example.inputs, example.output_shapes), *example.also), 1):
        shapes = _shapes(model, structure, plan, example, inputs)
        if isinstance(shapes, str) and isinstance(_shapes(model, structure, None, example, inputs), str):
            inputs = _in_type_of(model, inputs)
            _require_whole(model, _shapes(model, structure, None, example, inputs))
            shapes = _shapes(model, structure, plan, example, inputs)
        where = f"on example {number}, " if example.also else ""
        if isinstance(shapes, str):
            return where + shapes
        if example.meta and shapes != expected:
            return f"{where}the outputs have the shapes {shapes} instead of {expected}"
    return None


def _shapes(
    model: nn.Module, structure: Structure, plan: Plan | None, example: Example, inputs: Any
) -> tuple[tuple[int, ...], ...] | str:
    """Of the outputs of a run after the plan (None: of the whole model); in words what it raises."""
    with undisturbed(model):
        shadow = shadow_of(model, example.meta, structure.caches, example.hooks).eval()
        try:
            if plan is not None:
                apply(shadow, plan)
            result = run_shadow(shadow, inputs, lambda *observed: None, example.meta)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return tuple(tuple(tensor.shape) for tensor in output_tensors(result))


def _in_type_of(model: nn.Module, inputs: Any) -> Any:
    """The inputs, floats in the type of the model's first floating-point parameter."""
    dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.get_default_dtype())
    return map_tensors(inputs, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def _require_whole(model: nn.Module, shapes: object) -> None:
    if isinstance(shapes, str):
        raise SurgeryError(
            f"Expected {type(model).__name__} to run on the inputs that it was traced on, but as it is now it does "
            f"not, even whole: {shapes}. Trace it again, on inputs that it takes; nothing was changed."
        )
