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
    (dropout stays off); momentum and modes are put back. A norm that none of these batches comes to (of another domain,
    or of a head that only trains) keeps its statistics. A model without batch norm is left alone and costs nothing.
    Where anything raises, the statistics are as they were.

    Raises:
        DataError: the loader is empty, `batches` is below 1, or an input is NaN or infinite.
        TrainingError: an estimate is NaN or infinite.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    if batches < 1:
        raise DataError(f"Expected at least one of the batches to recalibrate batch norm on, but got batches={batches}")
    stream = iter(loader)
    first = next(stream, None)
    if first is None:
        raise DataError("Expected at least one batch to recalibrate batch norm on, but the loader gave none")
    with modes_kept(model), _statistics_kept(norms):
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
def _statistics_kept(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Put back the running statistics of all norms where the body raises, else of those that nothing came to, and each
    momentum in any case."""
    kept = [(norm, norm.momentum, {name: each.clone() for name, each in norm.named_buffers()}) for norm in norms]
    failed = True
    try:
        yield
        failed = False
    finally:
        for norm, momentum, statistics in kept:
            norm.momentum = momentum
            if failed or not norm.num_batches_tracked:
                for name, tensor in norm.named_buffers():
                    tensor.copy_(statistics[name])


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
