"""From a model and example inputs to a `Trace`: every parameter's dimensions as expressions over axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import icycle.tracing.rules  # noqa: F401  (registers the rules)
from icycle.axes import Axis, Dim, Polynomial, count, leaves, pin
from icycle.errors import TraceError
from icycle.tracing._conditions import Conditions, Rewrite
from icycle.tracing._run import map_tensors, output_tensors, run_shadow, shadow_inputs, undisturbed
from icycle.tracing._shadow import (
    Caches,
    following_paths,
    has_foreign_hooks,
    named_tensors,
    reusable,
    shadow_of,
    tensor_dicts,
)
from icycle.tracing._sizes import AttributeKey
from icycle.tracing._tracer import Dims, Info, Step, Tracer

__all__ = ["Trace", "trace_model"]


@dataclass
class Trace:
    """Everything that a run found out. The dimensions are live: pinning one and freezing again gives a new
    structure."""

    dims: Mapping[str, Dims]  # parameter or buffer -> its dimensions
    buffers: frozenset[str]
    runs: tuple[tuple[bool, tuple[Step, ...]], ...]  # (in training mode, its operations), in order
    tracer: Tracer = field(repr=False)
    shadow: nn.Module = field(repr=False)  # what was run, as it was before
    meta: bool
    hooks: bool  # whether the model's hooks were left on the shadow
    inputs: Any  # of the run in eval mode
    output_shapes: tuple[tuple[int, ...], ...]  # of the run in eval mode
    caches: Caches  # what was emptied or found to be filled
    notes: tuple[str, ...]

    @property
    def costs(self) -> dict[str, list[tuple[int, Dims]]]:
        """Cost name -> terms: a factor, and the dimensions whose sizes it is multiplied with."""
        parameters = [(1, dims) for name, dims in self.dims.items() if name not in self.buffers]
        return {**self.tracer.costs, "params": parameters}

    def role(self, dim: Dim) -> str:
        """The part that a parameter's own dimension plays ("" where no operation said)."""
        return self.tracer.roles.get(id(dim), "")

    def order(self) -> dict[int, int]:
        """id of a parameter's own dimension -> when it was first used."""
        return {id(dim): place for place, dim in reversed(list(enumerate(self.tracer.used)))}

    def pin_all_but(self, axes: Iterable[Axis]) -> None:
        """Pin every axis that sizes or costs depend on and that is not among `axes`: no parameter has it."""
        known = {id(axis) for axis in axes}
        costed = (dim for terms in self.costs.values() for _, dims in terms for dim in dims)
        for dim in (*self.tracer.conditions.sized(), *costed):
            for axis in leaves(dim):
                if id(axis) not in known:
                    axis.pinned = axis.pinned or "no parameter has these channels"

    @property
    def rewrites(self) -> tuple[Rewrite, ...]:
        """What must change in the code of modules, once `attributes` has settled the sizes."""
        return self.tracer.conditions.rewrites

    def attributes(self) -> dict[AttributeKey, Polynomial]:
        """The integer attributes that follow counts."""
        conditions = self.tracer.conditions
        conditions.settle()
        return {key: count(dim) for key, dim in conditions.attributes.items()} | conditions.solved


def trace_model(model: nn.Module, example_inputs: Any, head_width: bool = False) -> Trace:
    """Run a shadow of `model` on tensors without data, or where code must read values, on real ones.

    Dicts of tensors are taken for caches, and emptied; hooks for observers, and dropped. Where the model cannot
    do without, they are left as they are.
    """
    hooks = (False, True) if has_foreign_hooks(model) else (False,)
    ways = itertools.product((True, False), hooks, dict.fromkeys((tensor_dicts(model), frozenset())))
    errors: list[Exception] = []
    with undisturbed(model):
        for way in ways:
            try:
                return _trace(model, example_inputs, head_width, *way)
            except TraceError:
                raise
            except Exception as error:
                errors.append(error)
    raise TraceError(
        f"Expected {type(model).__name__} to run on the example inputs ({_describe(example_inputs)}), but it raised "
        f"{type(errors[-1]).__name__}: {errors[-1]}. Pass a tensor, a tuple of positional arguments or a dict of "
        "keyword arguments with which model(...) works."
    ) from errors[0]


def _describe(inputs: Any) -> str:
    shapes: list[str] = []
    map_tensors(inputs, lambda tensor: shapes.append(f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"))
    return ", ".join(shapes) or repr(inputs)[:80]


def _trace(model: nn.Module, example_inputs: Any, head_width: bool, meta: bool, hooks: bool, caches: Caches) -> Trace:
    tracer = Tracer(head_width)
    shadow = shadow_of(model, meta, caches, hooks, tracer.use)
    tracer.conditions = Conditions(head_width, dict(shadow.named_modules()))
    constant = tensor_dicts(shadow)
    dims = _own_axes(shadow, tracer)
    buffers = frozenset(name for name, _ in model.named_buffers())
    notes: list[str] = []
    with reusable(shadow), following_paths(shadow, tracer.paths):
        shapes, steps = _run(shadow, example_inputs, tracer, meta, training=False)
        runs = [(False, steps)]
        unused = [name for name in _unused(tracer, dims) if name not in buffers]
        if unused:  # an auxiliary head, say, that only runs in training mode
            try:
                runs.append((True, _run(shadow, example_inputs, tracer, meta, training=True)[1]))
            except Exception as error:
                first_line = str(error).split("\n")[0]
                notes.append(f"not run by the example, so left as they are: {', '.join(unused[:3])} ({first_line})")
        filled = tensor_dicts(shadow) - constant
    for name in _unused(tracer, dims):
        for dim in dims[name]:
            pin(dim, f"{name} was not used on the example inputs")
    tracer.conditions.settle()
    inputs = shadow_inputs(example_inputs, meta, False, lambda tensor: True)
    if hooks:
        notes.append("it does not run without the hooks on its modules, so they saw tensors without data")
    return Trace(dims, buffers, tuple(runs), tracer, shadow, meta, hooks, inputs, shapes, caches | filled, tuple(notes))


def _own_axes(shadow: nn.Module, tracer: Tracer) -> dict[str, Dims]:
    """Give every parameter and buffer axes of its own; nothing is removed from those that hold integers."""
    dims: dict[str, Dims] = {}
    for name, tensor in named_tensors(shadow):
        integer = None if tensor.is_floating_point() or tensor.is_complex() else f"{name} holds integers"
        dims[name] = tuple(Axis(size, pinned=integer) for size in tensor.shape)
        tracer.roles.update({id(dim): "index" if integer else "" for dim in dims[name]})
        tracer.give(tensor, dims[name], [True] * tensor.dim())
    return dims


def _run(
    shadow: nn.Module, example_inputs: Any, tracer: Tracer, meta: bool, training: bool
) -> tuple[tuple[tuple[int, ...], ...], tuple[Step, ...]]:
    """Run in one mode: the shapes of the outputs, which are pinned, and the operations. Costs are eval mode's."""
    tracer.steps, tracer.paths[:] = [], []
    tracer.counting = not training
    shadow.train(training)
    inputs = shadow_inputs(example_inputs, meta, training, _input_info)
    outputs = list(output_tensors(run_shadow(shadow, inputs, tracer.record, meta, tracer)))
    for tensor in outputs:
        for dim in tracer.dims(tensor):
            pin(dim, "an output of the model")
    return tuple(tuple(int(size) for size in tensor.shape) for tensor in outputs), tuple(tracer.steps)


def _unused(tracer: Tracer, dims: Mapping[str, Dims]) -> list[str]:
    """The parameters and buffers that no operation has read."""
    used = {id(dim) for dim in tracer.used}
    return [name for name, own in dims.items() if own and not any(id(dim) in used for dim in own)]


def _input_info(tensor: torch.Tensor) -> Info:
    dims = tuple(Axis(size, "an input of the model") for size in tensor.shape)
    return Info(dims, [False] * tensor.dim(), fed=True)
