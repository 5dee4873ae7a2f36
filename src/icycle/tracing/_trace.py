"""From a model and example inputs to a `Trace`: every parameter's dimensions as expressions over axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import icycle.tracing.rules  # noqa: F401  (registers the rules)
from icycle.axes import Axis, Dim, Polynomial, count, leaves, pin
from icycle.errors import TraceError
from icycle.reasons import Kind, Reason
from icycle.tracing._conditions import Conditions, Rewrite
from icycle.tracing._hooks import has_watchers
from icycle.tracing._modules import named_modules, named_tensors, set_mode
from icycle.tracing._recorder import Recorder, Step, has_dimensions
from icycle.tracing._run import output_tensors, run_shadow, shadow_inputs, undisturbed
from icycle.tracing._shadow import (
    Caches,
    following_paths,
    refusing_the_original,
    remember_attributes,
    reusable,
    shadow_of,
    tensor_dicts,
)
from icycle.tracing._sizes import AttributeKey
from icycle.tracing._tracer import Dims, Info
from icycle.tracing._trees import map_tensors, shapes_in_words

__all__ = ["Trace", "trace_model"]


_UNUSED = 10**9  # the place of what was not used, behind all that was


@dataclass(frozen=True)
class Trace:
    """Everything that a run found out.

    The dimensions are live: whoever learns more of them (a dry run) pins axes and calls `settle`, and a structure can
    be built anew.
    """

    dims: Mapping[str, Dims]  # parameter or buffer -> its dimensions
    buffers: frozenset[str]
    runs: tuple[tuple[bool, tuple[Step, ...]], ...]  # (in training mode, its operations), in order
    costs: Mapping[str, Sequence[tuple[int, Dims]]]  # cost name -> terms: a factor, and the dimensions it goes with
    roles: Mapping[int, str]  # id of a parameter's own dimension -> the part it plays, "" where no operation said
    order: Mapping[int, int]  # id of a parameter's own dimension -> when it was first used
    unknown_operations: Mapping[str, int]  # without a rule -> how often they ran
    conditions: Conditions = field(repr=False)
    shadow: nn.Module = field(repr=False)  # what was run, as it was before
    meta: bool
    hooks: bool  # whether the model's hooks were left on the shadow
    inputs: Any  # of the run in eval mode
    output_shapes: tuple[tuple[int, ...], ...]  # of the run in eval mode
    caches: Caches  # what was emptied or found to be filled
    notes: tuple[str, ...]
    also: tuple[tuple[Any, tuple[tuple[int, ...], ...]], ...] = ()  # further inputs, and the shapes of their outputs

    def settle(self) -> None:
        """Draw the conclusions from all that is known by now: pins what no parameter has, and what cannot follow the
        sizes in the code. Reading a trace, as below, changes nothing any more."""
        known = {id(axis) for axis in self.channel_axes()}
        costed = (dim for terms in self.costs.values() for _, dims in terms for dim in dims)
        for dim in (*self.conditions.sized(), *costed):
            for axis in leaves(dim):
                if id(axis) not in known:
                    pin(axis, Reason(Kind.NO_PARAMETER))
        self.conditions.settle()

    def channel_axes(self) -> list[Axis]:
        """The root axes that make up channel dimensions of parameters, front to back: in the order in which the run
        used what produces them, or else what consumes them."""
        places: dict[int, tuple[bool, int, int, int]] = {}
        found: dict[int, Axis] = {}
        for number, (name, _, dim, role) in enumerate(self.channel_dims()):
            own = [axis for axis in leaves(dim) if axis.size > 1]
            some_free = any(axis.pinned is None for axis in own)
            for place, axis in enumerate(own):
                if some_free and axis.pinned is not None:
                    continue  # a fixed factor or part of a dimension whose other axes can be pruned
                key = (role != "out", self.order.get(id(dim), _UNUSED), number, place)
                places[axis.created] = min(places.get(axis.created, key), key)
                if name not in self.buffers:
                    found[axis.created] = axis
        return sorted(found.values(), key=lambda axis: places[axis.created][1:])

    def channel_dims(self) -> Iterator[tuple[str, int, Dim, str]]:
        """Every dimension of a parameter or buffer that holds channels: its name, position, expression and role."""
        for name, dims in self.dims.items():
            beside = self._is_beside_a_weight(name)
            for position, dim in enumerate(dims):
                role = self.roles.get(id(dim), "")
                if not role:  # no operation said; torch's weights are (out, in, ...)
                    role = ("out", "in")[position] if len(dims) > 1 and position < 2 else "other"
                if beside and role in ("out", "in"):
                    role = "other"
                if role not in ("kernel", "index"):
                    yield name, position, dim, role

    def _is_beside_a_weight(self, name: str) -> bool:
        """Is that a buffer like a parameter of its module, or of the one that this belongs to: a mask, say?"""
        if name not in self.buffers or len(self.dims[name]) < 2:
            return False
        sizes, module = [dim.size for dim in self.dims[name]], name.rpartition(".")[0]
        others = (other for other in self.dims if other not in self.buffers)
        owned = (other for other in others if f"{module}.".startswith(f"{other.rpartition('.')[0]}."))
        return any([dim.size for dim in self.dims[other]] == sizes for other in owned)

    @property
    def rewrites(self) -> tuple[Rewrite, ...]:
        """What must change in the code of modules, as last settled."""
        return self.conditions.rewrites

    def attributes(self) -> dict[AttributeKey, Polynomial]:
        """The integer attributes that follow counts, as last settled."""
        return {key: count(dim) for key, dim in self.conditions.attributes.items()} | self.conditions.solved


def trace_model(model: nn.Module, example_inputs: Any, head_width: bool = False) -> Trace:
    """Run a shadow of `model` on tensors without data, or where code must read values, on real ones.

    Dicts of tensors are taken for caches, and emptied; hooks that only watch are dropped. Where the model cannot
    do without, they are left as they are.
    """
    _require_what_can_be_traced(model, example_inputs)
    hooks = (False, True) if has_watchers(model) else (False,)
    ways = itertools.product((True, False), hooks, dict.fromkeys((tensor_dicts(model), frozenset())))
    errors: list[Exception] = []
    with undisturbed(model), refusing_the_original(model):
        for way in ways:
            try:
                return _trace(model, example_inputs, head_width, *way)
            except TraceError:
                raise
            except Exception as error:
                errors.append(error)
    raise TraceError(
        f"Expected {type(model).__name__} to run on the example inputs ({shapes_in_words(example_inputs)}), but it "
        f"raised {type(errors[-1]).__name__}: {errors[-1]}. Pass a tensor, a tuple of positional arguments or a dict "
        "of keyword arguments with which model(...) works."
    ) from errors[0]


def _require_what_can_be_traced(model: nn.Module, example_inputs: Any) -> None:
    for path, module in named_modules(model):
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(
                f"Expected modules whose code is Python, but {path or 'the model'} ({type(module).__name__}) is "
                "compiled to TorchScript, which nobody can follow. Trace and prune the model before that."
            )
    tensors: list[torch.Tensor] = []
    map_tensors(example_inputs, tensors.append)
    if tensors and not any(tensor.numel() for tensor in tensors):
        raise TraceError(
            f"Expected example inputs of at least one element, but got {shapes_in_words(example_inputs)}: nothing can "
            "be seen or proven with an empty batch."
        )


def _trace(model: nn.Module, example_inputs: Any, head_width: bool, meta: bool, hooks: bool, caches: Caches) -> Trace:
    shadow = shadow_of(model, meta, caches, hooks)
    recorder = Recorder(shadow, head_width)
    constant = tensor_dicts(shadow)
    dims = {name: recorder.own(name, tensor) for name, tensor in named_tensors(shadow)}
    buffers = frozenset(name for name, _ in model.named_buffers())
    notes: list[str] = []
    in_training = _operations_of_training(shadow, example_inputs, meta)
    with reusable(shadow), following_paths(shadow, recorder.paths):
        remember_attributes(shadow, recorder.use, recorder.dims)
        shapes, steps = _run(shadow, example_inputs, recorder, meta, training=False)
        runs = [(False, steps)]
        unused = [name for name in _unused(recorder, dims) if name not in buffers]
        try:
            if unused or in_training != recorder.seen:
                runs.append((True, _run(shadow, example_inputs, recorder, meta, training=True)[1]))
        except TraceError:
            raise
        except Exception as error:
            notes.append(_not_trained(unused, error))
        filled = tensor_dicts(shadow) - constant
    for name in _unused(recorder, dims):
        for dim in dims[name]:
            pin(dim, Reason(Kind.UNUSED, name))
    if hooks:
        notes.append("it does not run without the hooks on its modules, so they saw tensors without data")
    recorder.conditions.settle()  # what it joins or pins decides which axes are channels
    found = Trace(
        dims=dims,
        buffers=buffers,
        runs=tuple(runs),
        costs={**recorder.costs, "params": [(1, own) for name, own in dims.items() if name not in buffers]},
        roles=recorder.roles,
        order={id(dim): place for place, dim in reversed(list(enumerate(recorder.used)))},
        unknown_operations=recorder.unknown,
        conditions=recorder.conditions,
        shadow=shadow,
        meta=meta,
        hooks=hooks,
        inputs=shadow_inputs(example_inputs, meta, False, lambda tensor: True),
        output_shapes=shapes,
        caches=caches | filled,
        notes=tuple(notes),
    )
    found.settle()
    return found


def _run(
    shadow: nn.Module, example_inputs: Any, recorder: Recorder, meta: bool, training: bool
) -> tuple[tuple[tuple[int, ...], ...], tuple[Step, ...]]:
    """Run in one mode: the shapes of the outputs, which are pinned, and the operations."""
    recorder.begin(training)
    set_mode(shadow, training)
    inputs = shadow_inputs(example_inputs, meta, training, _input_info)
    outputs = list(output_tensors(run_shadow(shadow, inputs, recorder.record, meta, recorder)))
    for tensor in outputs:
        for dim in recorder.dims(tensor):
            pin(dim, Reason(Kind.OUTPUT))
    return tuple(tuple(int(size) for size in tensor.shape) for tensor in outputs), tuple(recorder.steps)


def _operations_of_training(shadow: nn.Module, example_inputs: Any, meta: bool) -> list[Any] | None:
    """What runs in training mode, an auxiliary head, noise or a mean that runs along among it: operations as
    `Recorder.seen` has them of a run. None where the model does not run in that mode."""
    found: list[Any] = []

    def observe(operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        if has_dimensions(result):
            found.append(operation)

    set_mode(shadow, training=True)
    try:
        with reusable(shadow):
            run_shadow(shadow, shadow_inputs(example_inputs, meta, True, lambda tensor: True), observe, meta)
    except Exception:
        return None
    return found


def _not_trained(unused: Sequence[str], error: Exception) -> str:
    """What cannot be known, as the model does not run in training mode."""
    first_line = str(error).split("\n")[0]
    if unused:
        return f"not run by the example, so left as they are: {', '.join(unused[:3])} ({first_line})"
    return f"what it does in training mode alone is not known, as it does not run there on the example ({first_line})"


def _unused(recorder: Recorder, dims: Mapping[str, Dims]) -> list[str]:
    """The parameters and buffers that no operation has read."""
    used = {id(dim) for dim in recorder.used}
    return [name for name, own in dims.items() if own and not any(id(dim) in used for dim in own)]


def _input_info(tensor: torch.Tensor) -> Info:
    dims = tuple(Axis(size, Reason(Kind.INPUT)) for size in tensor.shape)
    return Info(dims, [False] * tensor.dim(), depends_on_input=True)
