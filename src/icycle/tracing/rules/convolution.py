"""Convolutions, plain, grouped, depthwise and transposed, in any number of spatial dimensions."""

from __future__ import annotations

import math
from typing import Any

from icycle.axes import Dim, factor, product
from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._registry import rule
from icycle.tracing._tracer import Dims, Tracer


@rule("convolution", "_convolution", "convolution_overrideable", "cudnn_convolution", "mkldnn_convolution")
def convolution(tracer: Tracer, given: Arguments, result: Any) -> None:
    """weight is (out, in / groups, kernel ...), transposed (in, out / groups, kernel ...)."""
    x = given.get("input") if given.get("self") is None else given.self
    weight, bias, groups, transposed = given.weight, given.get("bias"), given.groups, given.get("transposed", False)
    image, kernel = tracer.info(x), tracer.dims(weight)
    for dim in image.dims[2:]:
        tracer.pin(dim, Kind.SPATIAL)
    for dim in kernel[2:]:
        tracer.role(dim, "kernel")
        tracer.pin(dim, Kind.KERNEL)
    tracer.role(kernel[0], "in" if transposed else "out")
    tracer.role(kernel[1], "out" if transposed else "in")
    channels = _relate(tracer, image.dims[1], kernel[0], kernel[1], groups, transposed)
    blank = tracer.info(weight).zero
    if not (image.zero[1] or blank[0 if transposed else 1]):
        tracer.inexact(_contracted(kernel, groups, transposed), Kind.SUM_NOT_ZERO)
    zero = _is_zero(image.zero[1], blank, kernel, groups, transposed)
    if bias is not None:
        tracer.role(tracer.dims(bias)[0], "shift")
        tracer.unify(channels, tracer.dims(bias)[0])
        zero = zero and tracer.info(bias).zero[0]
    spatial = x.shape[2:] if transposed else result.shape[2:]
    tracer.cost("macs", math.prod(spatial) * math.prod(weight.shape[2:]), (image.dims[0], *kernel[:2]))
    tracer.cost("activation_bytes", math.prod(result.shape[2:]) * result.element_size(), (image.dims[0], channels))
    dims = (image.dims[0], channels, *tracer.fixed(result.shape[2:], Kind.SPATIAL))
    tracer.give(result, dims, [image.zero[0] and bias is None, zero] + [False] * (result.dim() - 2))


def _contracted(kernel: Dims, groups: int, transposed: bool) -> Dim:
    """The input channels of a group, over which it sums."""
    if not transposed:
        return kernel[1]
    rows = factor(kernel[0], kernel[0].size // groups)
    return kernel[0] if rows is None else rows[1]


def _is_zero(image: bool, weight: list[bool], kernel: Dims, groups: int, transposed: bool) -> bool:
    """Whether the result is zero at removed channels: the weight's rows are, or, depthwise, the image is."""
    rows = (weight[1] and (weight[0] or groups == 1)) if transposed else weight[0]
    each = kernel[1].size if transposed else kernel[0].size // groups
    return rows or (image and groups > 1 and each == 1)


def _relate(tracer: Tracer, channels: Dim, first: Dim, second: Dim, groups: int, transposed: bool) -> Dim:
    """Couple the image's channels with the weight; the result's channels are returned."""
    if groups == 1:
        tracer.unify(channels, first if transposed else second)
        return second if transposed else first
    image, rows = factor(channels, channels.size // groups), factor(first, first.size // groups)
    if image is None or rows is None:
        for dim in (channels, first, second):
            tracer.pin(dim, Kind.NO_GROUPS, groups)
        return tracer.fixed([second.size * groups if transposed else first.size])[0]
    tracer.unify(image[0], rows[0])
    call = tracer.call
    written = (
        call.argument(8 if call.name == "convolution" else 6, "groups", 1)
        if call is not None and "conv" in call.name
        else groups
    )
    tracer.constrain(written, rows[0])
    if transposed:
        tracer.unify(image[1], rows[1])
        return product((rows[0], second))
    tracer.unify(image[1], second)
    return first
