"""Fourier transforms, and complex numbers as pairs of real ones."""

from __future__ import annotations

import torch

from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._registry import rule
from icycle.tracing._tracer import Tracer


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fourier(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Every element of the transformed dimensions takes part; of the others each is transformed on its own."""
    info = tracer.info(given.self)
    dims, zero = list(info.dims), list(info.zero)
    for place in (position % len(dims) for position in given.dim):
        tracer.pin(dims[place], Kind.ALL_TAKE_PART)
        dims[place] = tracer.fixed([result.shape[place]])[0]
        zero[place] = False
    tracer.give(result, dims, zero)


@rule("view_as_real")
def as_real(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """A last dimension holds the real and the imaginary part."""
    info = tracer.info(given.self)
    tracer.give(result, (*info.dims, *tracer.fixed([2], Kind.STACKED)), [*info.zero, False], info)


@rule("view_as_complex")
def as_complex(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """The last dimension held the real and the imaginary part."""
    info = tracer.info(given.self)
    tracer.pin(info.dims[-1], Kind.NUMBERED)
    tracer.give(result, info.dims[:-1], info.zero[:-1], info)
