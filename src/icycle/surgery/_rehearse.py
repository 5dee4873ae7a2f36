"""The rehearsal: a plan is applied to a shadow of the model, which is run, before the model itself is touched."""

from __future__ import annotations

from torch import nn

from icycle.structure import Structure
from icycle.surgery._apply import apply
from icycle.surgery._plan import Plan
from icycle.tracing import output_tensors, run_shadow, shadow_of, undisturbed

__all__ = ["rehearse"]


def rehearse(model: nn.Module, structure: Structure, plan: Plan) -> str | None:
    """Apply `plan` to a shadow of `model` and run that in eval mode; what goes wrong, or None.

    The outputs must have the shapes that the whole model's had, except where a run on real values decides them.
    """
    example = structure.example
    if example is None:  # the structure was not traced, but put together by hand
        return None
    with undisturbed(model):
        shadow = shadow_of(model, example.meta, structure.caches, example.hooks).eval()
        try:
            apply(shadow, plan)
            result = run_shadow(shadow, example.inputs, lambda *observed: None, example.meta)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    shapes = tuple(tuple(tensor.shape) for tensor in output_tensors(result))
    if example.meta and shapes != example.output_shapes:
        return f"the outputs have the shapes {shapes} instead of {example.output_shapes}"
    return None
