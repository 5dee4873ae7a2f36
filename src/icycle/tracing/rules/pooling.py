"""Pooling, interpolation and padding of spatial dimensions: the leading dimensions pass, the spatial ones are fresh."""

from __future__ import annotations

import math
from typing import Any

import torch

from icycle.axes import Axis, Dim, factor, product, sum_of
from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._registry import rule
from icycle.tracing._sizes import TracedInt
from icycle.tracing._tracer import Tracer, flat_tensors

_POOLS = [
    f"{kind}{rank}d{suffix}"
    for rank in (1, 2, 3)
    for kind, suffix in (
        ("avg_pool", ""),
        ("max_pool", "_with_indices"),
        ("max_pool", ""),
        ("adaptive_avg_pool", ""),
        ("_adaptive_avg_pool", ""),
        ("adaptive_max_pool", ""),
        ("reflection_pad", ""),
        ("replication_pad", ""),
        ("upsample_nearest", ""),
        ("_upsample_nearest_exact", ""),
        ("fractional_max_pool", ""),
    )
]


@rule(*_POOLS, "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d")
@rule("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
def spatial(tracer: Tracer, given: Arguments, result: Any) -> None:
    """The number of spatial dimensions is in the name."""
    rank = int(next(letter for letter in reversed(given.name) if letter.isdigit()))
    info = tracer.info(given.self)
    leading = info.dims[:-rank]
    for dim in info.dims[-rank:]:
        tracer.pin(dim, Kind.SPATIAL)
    for out in flat_tensors(result):
        dims = (*leading, *tracer.fixed(out.shape[-rank:], Kind.SPATIAL))
        values = out.is_floating_point()  # else positions, which are not zero where all that they point to is
        tracer.give(out, dims, [*(values and flag for flag in info.zero[:-rank]), *[False] * rank])


@rule("max_unpool2d", "max_unpool3d")
def unpool(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """self and indices (..., height, width): the place in the result of every element, channel by channel."""
    x, places = tracer.info(given.self), tracer.info(given.indices)
    tracer.unify_all(x.dims, places.dims)
    spatial(tracer, given, result)


@rule("grid_sampler_2d", "grid_sampler_3d")
def grid_sample(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """input (batch, channels, ...), grid (batch, ..., 2 or 3) of positions -> (batch, channels, ...)."""
    x, grid = tracer.info(given.input), tracer.info(given.grid)
    tracer.unify(x.dims[0], grid.dims[0])
    for dim in (*x.dims[2:], *grid.dims[1:]):
        tracer.pin(dim, Kind.POSITIONS)
    dims = (*x.dims[:2], *tracer.fixed(result.shape[2:], Kind.POSITIONS))
    tracer.give(result, dims, [*x.zero[:2], *[False] * (result.dim() - 2)])


@rule("constant_pad_nd")
def constant_pad(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """A padded dimension is fixed elements, then its own, then fixed ones; a negative padding cuts and is pinned."""
    padding, info, call = given.pad, tracer.info(given.self), tracer.call
    written = list(call.argument(1, "pad", padding)) if call is not None and call.name == "pad" else padding
    dims: list[Dim] = list(info.dims)
    for pair in range(len(padding) // 2):
        low, high = padding[2 * pair : 2 * pair + 2]
        place = len(dims) - 1 - pair
        if low < 0 or high < 0:
            tracer.pin(dims[place], Kind.NEGATIVE_PADDING)
            dims[place] = tracer.fixed(result.shape[place : place + 1])[0]
        elif low or high:
            before, after = (_pad(tracer, size) for size in written[2 * pair : 2 * pair + 2])
            dims[place] = sum_of((before, dims[place], after))
    blank = given.value == 0
    tracer.give(result, dims, [blank and flag for flag in info.zero])


def _pad(tracer: Tracer, size: Any) -> Dim:
    """New elements, as many as the code says or computes."""
    if not isinstance(size, TracedInt):
        return tracer.fixed([size], Kind.PADDING)[0]
    dim = Axis(int(size))
    tracer.constrain(size, dim)
    return dim


@rule("im2col", "col2im")
def unfold_image(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """im2col: (batch, channels, ...) -> (batch, channels x kernel, positions); col2im goes back."""
    info, kernel = tracer.info(given.self), math.prod(given.kernel_size)
    if given.name == "im2col":
        for dim in info.dims[-2:]:
            tracer.pin(dim, Kind.SPATIAL)
        channels = product((info.dims[-3], *tracer.fixed([kernel], Kind.KERNEL)))
        dims = (*info.dims[:-3], channels, *tracer.fixed(result.shape[-1:]))
        zero = [*info.zero[:-3], info.zero[-3], False]
    else:
        rows = factor(info.dims[-2], kernel)
        channel = tracer.fixed([result.shape[-3]])[0] if rows is None else rows[0]
        for dim in (info.dims[-1], info.dims[-2] if rows is None else rows[1]):
            tracer.pin(dim, Kind.SPATIAL)
        dims = (*info.dims[:-2], channel, *tracer.fixed(result.shape[-2:]))
        zero = [*info.zero[:-2], info.zero[-2], False, False]
    tracer.give(result, dims, zero)
