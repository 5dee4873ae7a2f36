"""A run in which chance has no say, and of which one knows how exactly it computed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from icycle.tracing import base_name, flat_tensors

__all__ = ["Calm", "seeded"]

_RANDOM = frozenset(
    "rand rand_like randn randn_like normal normal_functional uniform bernoulli randint randint_like randperm "
    "multinomial exponential cauchy log_normal geometric poisson binomial random rrelu_with_noise".split()
)
_DROPOUT = frozenset(("native_dropout", "dropout", "feature_dropout", "alpha_dropout"))


class Calm(TorchDispatchMode):
    """Meanwhile random numbers are constants, for a removal changes how many are drawn before a given one.

    `coarsest` is the rounding of the least exact floating-point type in which anything was computed."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.coarsest = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = base_name(func)
        if name in _RANDOM:
            for tensor in flat_tensors(result):
                _still(tensor, name, args)
        elif name in _DROPOUT:
            next(iter(flat_tensors(result))).copy_(args[0])
        for tensor in flat_tensors(result):
            if tensor.is_floating_point() or tensor.is_complex():
                self.coarsest = max(self.coarsest, torch.finfo(tensor.dtype).eps)
        return result


def _still(tensor: torch.Tensor, name: str, args: Any) -> None:
    if name == "randperm":
        tensor.copy_(torch.arange(tensor.numel()))
    elif tensor.is_floating_point() and name != "bernoulli":
        tensor.fill_(0.5)
    elif name == "bernoulli":
        tensor.fill_(1)
    else:
        bounds = [value for value in args if isinstance(value, int)]
        tensor.fill_(bounds[0] if name.startswith("randint") and len(bounds) > 1 else 0)


@contextmanager
def seeded() -> Iterator[None]:
    """One state of every generator at the start, and as before at the end."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(0)
            np.random.seed(0)
            _seed_torch()
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _seed_torch() -> None:
    """Not by torch.manual_seed, which seeds a device that is not in use yet as well, once it will be."""
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
