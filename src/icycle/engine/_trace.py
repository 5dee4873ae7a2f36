"""From a model to its proven structure: rules guess, a run without data and a trial in numbers prove."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from icycle.engine._numbers import prove_in_numbers
from icycle.engine._shapes import further_examples, prove_in_shapes
from icycle.engine._trial import NoNumbersError
from icycle.errors import TraceError
from icycle.structure import Structure
from icycle.tracing import is_sharded, named_tensors, trace_model

__all__ = ["trace"]

_COPY_BYTES = 4 * 2**30


def trace(
    model: nn.Module,
    example_inputs: Any,
    *,
    head_width: bool = False,
    proof: Literal["numbers", "shapes"] = "numbers",
    also: Sequence[Any] = (),
    copy_bytes: int = _COPY_BYTES,
) -> Structure:
    """Find out which channels of `model` stand or fall together, and prove it.

    `example_inputs` is a tensor, a tuple of positional arguments or a dict of keyword arguments with which the model
    runs; `also` are more of these, on which every removal has to give outputs of the right shapes, too: code that the
    first does not run (another size, another branch) is checked so, but not traced. The width inside attention heads
    may be pruned only with `head_width`.

    Every trace is proven by a run of the smaller model on tensors without data, in which every shape must be as
    predicted, and the numbers that operations are given the same. With `proof="numbers"` a trial on real values
    follows: a copy of the model with other weights, so that no zero, one or symmetry hides anything, is run with zeroed
    channels and then without them. A group whose removal is not zeroing is then not `exact`, and one without which the
    model does not run stays; the reason names the operation at which the two runs part. That takes one copy of the
    weights and about two forward passes, more only where something is found. It is left out, as with `proof="shapes"`,
    for a model on the meta device or whose parameters and buffers have more than `copy_bytes` bytes (4 GiB);
    `structure.proof` says which it was, and `structure.notes` why.

    The model is left as it is: mode, weights, buffers, random state and attributes. During the trial torch's default
    dtype, which all threads share, may be float64: let no other thread make tensors meanwhile. Raises TraceError where
    the model cannot be copied or does not run on the example."""
    if any(is_sharded(tensor) for _, tensor in named_tensors(model)):
        raise TraceError(
            f"Expected a model whose weights are whole, but {type(model).__name__} is sharded over processes; trace it "
            "before fully_shard: the structure holds for the sharded model, too"
        )
    # in inference mode composite operations, which have no rules, would not come apart
    with torch.inference_mode(False), _keeping_garbage():
        found = trace_model(model, example_inputs, head_width)
        found = replace(found, also=further_examples(model, found, also))
        structure = prove_in_shapes(model, example_inputs, found)
        if proof == "shapes" or not structure.prunable:
            return replace(structure, proof=proof)
        missing = _no_copy(model, copy_bytes)
        if missing:
            return replace(structure, notes=(*structure.notes, missing))
        try:
            return replace(prove_in_numbers(model, (example_inputs, *also), found, structure), proof="numbers")
        except NoNumbersError as error:
            return replace(structure, notes=(*structure.notes, f"proven over shapes alone. {error}"))


@contextmanager
def _keeping_garbage() -> Iterator[None]:
    """Keep the garbage collector from running: it would go through all that the process holds, several times, for what
    is small (tensors without data, the modules of one copy) and nearly all still in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _no_copy(model: nn.Module, most: int) -> str:
    """Why no copy of the model is made; "" where one is."""
    tensors = [tensor for _, tensor in named_tensors(model)]
    if any(tensor.is_meta for tensor in tensors):
        return "proven over shapes alone: the model has no weights (it is on the meta device)"
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > most:
        return (
            f"proven over shapes alone: a copy of {size / 2**30:.1f} GiB would be made; "
            "icycle.trace(..., copy_bytes=...) allows it"
        )
    return ""
