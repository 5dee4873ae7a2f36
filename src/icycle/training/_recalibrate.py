"""Batch-norm statistics, estimated anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from icycle.errors import DataError, TrainingError
from icycle.probing import inputs_for
from icycle.tracing import call_with, map_tensors
from icycle.training._batches import Loader
from icycle.training._modes import modes_kept

__all__ = ["recalibrate"]


@torch.no_grad()
def recalibrate(model: torch.nn.Module, loader: Loader, *, batches: int = 10) -> None:
    """Reset the running statistics of all batch norms and estimate them on the first `batches` of `loader`: tensors,
    (inputs..., targets) or mappings of keyword arguments.

    The estimate is the cumulative average, so each batch weighs the same. Only batch norms run in training mode
    (dropout stays off); momentum and modes are put back. A model without batch norm is left alone and costs nothing.
    Where anything raises, the statistics are as they were.

    Raises:
        DataError: the loader is empty, or an input is NaN or infinite.
        TrainingError: an estimate is NaN or infinite.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    stream = iter(loader)
    first = next(stream, None)
    if first is None:
        raise DataError("Expected at least one batch to recalibrate batch norm on, but the loader gave none")
    with modes_kept(model), _statistics_kept_on_error(norms):
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for the cumulative average
            norm.training = True
        for batch in chain([first], islice(stream, batches - 1)):
            inputs, _ = inputs_for(model, batch)
            map_tensors(inputs, _check_input)
            call_with(model, inputs)
        for path, module in model.named_modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                _check_statistics(path, module)


@contextmanager
def _statistics_kept_on_error(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Put back the running statistics where the body raises, and each momentum in any case."""
    kept = [(norm.momentum, {name: tensor.clone() for name, tensor in norm.named_buffers()}) for norm in norms]
    try:
        yield
    except BaseException:
        for norm, (_, statistics) in zip(norms, kept, strict=True):
            for name, tensor in norm.named_buffers():
                tensor.copy_(statistics[name])
        raise
    finally:
        for norm, (momentum, _) in zip(norms, kept, strict=True):
            norm.momentum = momentum


def _check_input(tensor: torch.Tensor) -> None:
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise DataError(
            f"Expected finite inputs to recalibrate batch norm on, but a batch of shape {list(tensor.shape)} holds NaN "
            "or infinity. Mend the data; the statistics are as they were."
        )


def _check_statistics(path: str, norm: _BatchNorm) -> None:
    for name, tensor in norm.named_buffers():
        if not tensor.isfinite().all():
            raise TrainingError(
                f"Expected finite statistics of batch norm, but {path}.{name} became NaN or infinite. Look for weights "
                "that are, or for activations that overflow; the statistics are as they were."
            )
