"""One run of a shadow on the example inputs, observed operation by operation."""

from __future__ import annotations

import dataclasses
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from icycle.tracing._functions import autograd_functions_as_one
from icycle.tracing._memoised import nothing_memoised
from icycle.tracing._modes import Functions, Observer, Operations
from icycle.tracing._modules import named_tensors
from icycle.tracing._recorder import Recorder
from icycle.tracing._sizes import TracedInt
from icycle.tracing._trees import map_tensors

__all__ = ["call_with", "output_tensors", "run_shadow", "shadow_inputs", "undisturbed"]


def run_shadow(shadow: nn.Module, inputs: Any, observe: Observer, meta: bool, recorder: Recorder | None = None) -> Any:
    """The shadow's output, every operation shown to `observe`; with a recorder, sizes remember their dimension."""
    operations = Operations(observe, meta)
    with torch.no_grad(), autograd_functions_as_one(operations), Functions(operations, recorder), operations:
        result = call_with(shadow, inputs)
    for item in _outputs(result) if recorder is not None else ():
        if isinstance(item, TracedInt):
            item.report("output", 0)
    return result


def call_with(model: nn.Module, inputs: Any) -> Any:
    """Call a model on a tensor, a tuple or list of positional arguments, or a dict of keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def shadow_inputs(inputs: Any, meta: bool, training: bool, mark: Callable[[torch.Tensor], Any]) -> Any:
    """The inputs of a shadow, each marked as followed with `_icycle = mark(tensor)`.

    Floats come without data where the shadow has none; integers are as they are, for code to read. In training mode a
    single example is doubled: batch norm needs two.
    """

    def stand_in(tensor: torch.Tensor) -> torch.Tensor:
        data = tensor.detach()
        if training and data.dim() > 1 and data.shape[0] == 1:
            data = torch.cat((data, data))
        floating = data.is_floating_point() or data.is_complex()
        if meta and floating:
            data = torch.empty_strided(data.shape, data.stride(), dtype=data.dtype, device="meta")
        else:
            data = data.clone()
        data._icycle = mark(data)  # type: ignore[attr-defined]
        return data

    return map_tensors(inputs, stand_in)


def output_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in what a model returned: in tuples, lists, mappings, dataclasses, or a plain object's attributes.

    Objects inside those are state that a model hands on to itself (a key-value cache), and no output.
    """
    return (item for item in _outputs(value) if isinstance(item, torch.Tensor))


def _outputs(value: Any) -> Iterator[Any]:
    is_object = hasattr(value, "__dict__") and not isinstance(
        value, (type, nn.Module, torch.Tensor, Mapping, tuple, list)
    )
    yield from _leaves(vars(value) if is_object else value)


def _leaves(value: Any) -> Iterator[Any]:
    children: Any = ()
    if isinstance(value, Mapping):
        children = value.values()
    elif isinstance(value, (tuple, list, set)):
        children = value
    elif dataclasses.is_dataclass(value):
        children = [getattr(value, item.name) for item in dataclasses.fields(value)]
    else:
        yield value
    for child in children:
        yield from _leaves(child)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Restore the random state, and keep off meanwhile what a run must not meet: the fast path of torch's attention,
    kept results of functions, compiled code, and the cache of sizes by which einops would hand one layer the sizes of
    another."""
    tensors = named_tensors(model) if torch.cuda.is_initialized() else ()
    devices = sorted({tensor.device.index or 0 for _, tensor in tensors if tensor.is_cuda})
    python_state, numpy_state = random.getstate(), np.random.get_state()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    einops = sys.modules.get("einops.einops")
    cached = getattr(einops, "_reconstruct_from_shape", None)
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        if cached is not None:
            setattr(einops, "_reconstruct_from_shape", getattr(cached, "__wrapped__", cached))  # noqa: B010
        with torch.random.fork_rng(devices=devices), nothing_memoised(model), _nothing_compiled():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        if cached is not None:
            setattr(einops, "_reconstruct_from_shape", cached)  # noqa: B010
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """Code under `torch.compile` runs as it is written, meanwhile: compiled, it shows none of its operations."""
    set_stance: Any = getattr(torch.compiler, "set_stance", None)  # torch 2.5 has none
    if set_stance is None or "torch._dynamo" not in sys.modules:  # without which nothing is compiled
        yield
        return
    with set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using `torch.compile")  # of hooks on all modules, of which a trace has one
        yield
