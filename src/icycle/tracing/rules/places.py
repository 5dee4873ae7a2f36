"""Operations by which elements change places: turned, shuffled, cut to triangles and windows."""

from __future__ import annotations

import torch

from icycle.axes import Dim, factor, product
from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._registry import rule
from icycle.tracing._tracer import Dims, Tracer


@rule("flip", "roll", "rot90")
def reorder(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Elements change places along some dimensions, which are pinned."""
    info = tracer.info(given.self)
    for dim in given.dims or range(len(info.dims)):  # roll without dimensions rolls the flattened tensor
        tracer.pin(info.dims[dim], Kind.CHANGE_PLACES)
    tracer.give(result, _of_shape(tracer, info.dims, result), [False] * result.dim())


def _of_shape(tracer: Tracer, dims: Dims, result: torch.Tensor) -> Dims:
    """`dims` where the result has their sizes, which are pinned, and fresh ones elsewhere (a turned image)."""
    return tuple(
        dim if dim.size == size else tracer.fixed([size])[0] for dim, size in zip(dims, result.shape, strict=True)
    )


@rule("tril", "triu")
def triangle(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """What remains of a row depends on its number: rows and columns are pinned."""
    info = tracer.info(given.self)
    for dim in info.dims[-2:]:
        tracer.pin(dim, Kind.NUMBERED)
    tracer.give(result, info.dims, [*info.zero[:-2], False, False])


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Channels are rows of factor x factor pixels, or become so."""
    info = tracer.info(given.self)
    *leading, channels, _, _ = info.dims
    for dim in info.dims[-2:]:
        tracer.pin(dim, Kind.SPATIAL)
    unshuffle = given.name == "pixel_unshuffle"
    square = (given.downscale_factor if unshuffle else given.upscale_factor) ** 2
    if unshuffle:
        new = product((channels, *tracer.fixed([square], Kind.PIXELS)))
    else:
        rows = factor(channels, square)
        if rows is None:
            tracer.pin(channels, Kind.NO_ROWS, "rows of pixels")
            rows = tracer.fixed([channels.size // square, square])  # type: ignore[assignment]
        assert rows is not None
        tracer.pin(rows[1], Kind.PIXELS)
        new = rows[0]
    dims = (*leading, new, *tracer.fixed(result.shape[-2:], Kind.SPATIAL))
    tracer.give(result, dims, [*info.zero[:-2], False, False])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """(groups, rest) become (rest, groups)."""
    info = tracer.info(given.self)
    channels = info.dims[1]
    rows = factor(channels, channels.size // given.groups)
    if rows is None:
        tracer.pin(channels, Kind.NO_ROWS, "equal groups")
        new: Dim = tracer.fixed([channels.size])[0]
    else:
        tracer.pin(rows[0], Kind.PARTS, "groups")
        new = product((rows[1], rows[0]))
    tracer.give(result, (info.dims[0], new, *info.dims[2:]), info.zero)


@rule("unfold")
def unfold(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Windows along one dimension, which is pinned; a last dimension holds the window."""
    info = tracer.info(given.self)
    place = given.dimension % len(info.dims)
    tracer.pin(info.dims[place], Kind.WINDOWS)
    dims = list(info.dims)
    dims[place] = tracer.fixed(result.shape[place : place + 1])[0]
    tracer.give(result, [*dims, *tracer.fixed(result.shape[-1:])], [*info.zero, False])
