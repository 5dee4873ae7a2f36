"""From a torch model to an ONNX graph."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from icycle.errors import ExportError
from icycle.tracing import batch_size, copy_of, undisturbed, with_batch

__all__ = ["at_least_two", "dynamic_shapes", "in_a_line", "onnx_model", "quiet", "require"]

_HINT = "pip install 'icycle[export]'"


def require(*packages: str) -> None:
    """Raise ExportError where a package that an export needs is not installed."""
    import importlib.util

    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ExportError(f"Expected the package {missing[0]}, but it is not installed; {_HINT}.")


def onnx_model(model: nn.Module, inputs: Any, *, dynamic_batch: bool = True) -> bytes:
    """`model`, in evaluation mode, as a serialised ONNX model.

    `inputs` is a tensor, a tuple of positional or a dict of keyword arguments. With `dynamic_batch` the first
    dimension of every input is free; of a single example two are made for it, as torch.export takes a 1 for fixed.
    Raises ExportError where torch cannot export the model.
    """
    require("onnx", "onnxscript")
    own = copy_of(model).eval()
    if dynamic_batch:
        inputs = at_least_two(inputs)
    positional, keywords = ((), dict(inputs)) if isinstance(inputs, Mapping) else (_as_tuple(inputs), {})
    try:
        with undisturbed(model), quiet(), torch.no_grad():
            program = torch.onnx.export(
                own,
                (*positional, {}) if positional else (),  # a last dict would be taken for keywords
                kwargs=keywords,
                dynamo=True,
                verbose=False,
                external_data=False,
                dynamic_shapes=dynamic_shapes(positional, keywords) if dynamic_batch else None,
            )
        assert program is not None
        serialised: bytes = program.model_proto.SerializeToString()
    except Exception as error:
        raise ExportError(
            f"Expected {type(model).__name__} to be exported to ONNX, but torch raised {in_a_line(error)}"
        ) from error
    return serialised


def in_a_line(error: Exception) -> str:
    """Type and first line of what an exporter raised; of its cause where there is one, for torch.onnx advises first."""
    cause = error.__cause__ or error
    first, *_ = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {first[:300]}"


def at_least_two(inputs: Any) -> Any:
    """The inputs; where they are one example, twice the same, for exporters take a dimension of 1 as fixed."""
    return inputs if batch_size(inputs) > 1 else with_batch(inputs, 2)


def _as_tuple(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def dynamic_shapes(positional: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """The first dimension of every tensor, as torch.export wants it said."""

    def free(leaf: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if isinstance(leaf, torch.Tensor) and leaf.dim() else None

    return tree_map(free, dict(keywords) or positional)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter's progress, and its advice to its own developers, are of no use to a user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
