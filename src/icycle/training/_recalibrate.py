"""Batch-norm statistics, estimated anew."""

from __future__ import annotations

from itertools import chain, islice

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from icycle.errors import DataError
from icycle.training._batches import Loader, to_device
from icycle.training._evaluate import modes_kept

__all__ = ["recalibrate"]


@torch.no_grad()
def recalibrate(model: torch.nn.Module, loader: Loader, *, batches: int = 10) -> None:
    """Reset the running statistics of all batch norms and estimate them on the first `batches` of `loader`.

    The estimate is the cumulative average, so each batch weighs the same. Only batch norms run in training mode
    (dropout stays off); momentum and modes are put back. A model without batch norm is left alone and costs nothing.

    Raises:
        DataError: the loader is empty; the statistics are as they were.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    stream = iter(loader)
    first = next(stream, None)
    if first is None:
        raise DataError("Expected at least one batch to recalibrate batch norm on, but the loader gave none")
    with modes_kept(model):
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for the cumulative average
            norm.training = True
        try:
            for batch in chain([first], islice(stream, batches - 1)):
                model(to_device(batch, model)[0])
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
