"""Equal seeds give equal weights, on accelerators too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from icycle.errors import TrainingError

__all__ = ["deterministic"]

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Within the block torch computes the same thing in the same way each time; afterwards as it did before.

    Not `wanted`: nothing is changed.

    Raises:
        TrainingError: an operation has no deterministic implementation on the device.
    """
    if not wanted:
        yield
        return
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    before, workspace = (cudnn.deterministic, cudnn.benchmark), os.environ.get(_CUBLAS)
    os.environ.setdefault(_CUBLAS, ":4096:8")  # cuBLAS draws its workspaces from a pool otherwise
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise TrainingError(
            f"Expected operations with a deterministic implementation, as train.deterministic asks, but {error}; set "
            "train.deterministic to false"
        ) from error
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        cudnn.deterministic, cudnn.benchmark = before
        if workspace is None:
            os.environ.pop(_CUBLAS, None)
