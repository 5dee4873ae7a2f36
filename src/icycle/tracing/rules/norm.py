"""Normalisation layers: parameters and running statistics belong to the normalised dimension."""

from __future__ import annotations

import math
from typing import Any

import torch

from icycle.axes import Dim, factor
from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments, bind
from icycle.tracing._registry import register, rule
from icycle.tracing._tracer import Tracer, flat_tensors


def _affine(
    tracer: Tracer, dims: tuple[Dim, ...], weight: Any, bias: Any, mean: Any = None, variance: Any = None
) -> None:
    roles = ((weight, "scale"), (bias, "shift"), (mean, "state"), (variance, "variance"))
    for tensor, role in roles:
        if tensor is not None:
            for own, dim in zip(tracer.dims(tensor), dims, strict=True):
                tracer.role(own, role)
                tracer.unify(dim, own)


def _affine_zero(tracer: Tracer, x: bool, weight: Any, bias: Any, mean: Any = None) -> bool:
    """Whether the result is zero at removed channels: the weight is, or what is normalised; and the bias is."""

    def is_zero(tensor: Any) -> bool:
        return tensor is None or all(tracer.info(tensor).zero)

    scaled = weight is not None and is_zero(weight)
    return is_zero(bias) and (scaled or (x and is_zero(mean)))


@rule("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit_no_training")
@rule("_native_batch_norm_legit", "_native_batch_norm_legit_functional", "_batch_norm_with_update", "batch_norm")
@rule("_batch_norm_no_update", "_batch_norm_with_update_functional")
def batch_norm(tracer: Tracer, given: Arguments, result: Any) -> None:
    """x (batch, channels, ...); weight, bias, running mean, running variance (channels)."""
    weight, mean = given.weight, given.get("running_mean")
    info = tracer.info(given.input)
    channels = info.dims[1]
    _affine(tracer, (channels,), weight, given.bias, mean, given.get("running_var"))
    out, *statistics = flat_tensors(result)
    if mean is None:
        for dim in (info.dims[0], *info.dims[2:]):
            tracer.inexact(dim, Kind.NORMALISED, "elements")
    zero = [False] * out.dim()
    zero[1] = _affine_zero(tracer, info.zero[1], weight, given.bias, mean)
    tracer.cost("activation_bytes", out.element_size(), info.dims)
    tracer.give(out, info.dims, zero)
    for other in statistics:
        same = other.shape == (channels.size,)
        tracer.give(other, (channels,) if same else tracer.fixed(other.shape), [False] * other.dim())


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm")
def layer_norm(tracer: Tracer, given: Arguments, result: Any) -> None:
    """The last dimensions are normalised together: they may lose channels, but not exactly."""
    shape, weight = given.normalized_shape, given.weight
    info = tracer.info(given.input)
    inner = info.dims[-len(shape) :]
    _affine(tracer, inner, weight, given.get("bias"))
    for dim in inner:
        tracer.inexact(dim, Kind.NORMALISED, "channels")
    call = tracer.call
    if call is not None and "norm" in call.name:
        for size, dim in zip(call.variadic(1, "normalized_shape"), inner, strict=True):
            tracer.constrain(size, dim)
    out, *statistics = flat_tensors(result)
    zero = [_affine_zero(tracer, flag, weight, given.get("bias")) for flag in info.zero[-len(shape) :]]
    zero = [False] * (out.dim() - len(shape)) + zero
    tracer.cost("activation_bytes", out.element_size(), info.dims)
    tracer.give(out, info.dims, zero)
    for other in statistics:
        tracer.give(other, _statistics(tracer, info.dims, other), [False] * other.dim())


@register("torch::rms_norm")
def rms_norm(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: torch.Tensor) -> None:
    """The function as a whole: the operations it is made of do not show the shape that it checks."""
    given = bind(torch.ops.aten.rms_norm.default, args, kwargs)
    shape = given.normalized_shape
    info = tracer.info(given.input)
    inner = info.dims[-len(shape) :]
    _affine(tracer, inner, given.weight, None)
    for size, dim in zip(shape, inner, strict=True):
        tracer.inexact(dim, Kind.NORMALISED, "channels")
        tracer.constrain(size, dim)
    tracer.cost("activation_bytes", result.element_size(), info.dims)
    tracer.give(result, info.dims, info.zero)


def _statistics(tracer: Tracer, dims: tuple[Dim, ...], other: torch.Tensor) -> tuple[Dim, ...]:
    if len(dims) != other.dim():
        return tracer.fixed(other.shape)
    fresh = tracer.fixed(other.shape, Kind.STATISTIC)
    return tuple(dim if dim.size == new.size else new for dim, new in zip(dims, fresh, strict=True))


@rule("native_group_norm")
def group_norm(tracer: Tracer, given: Arguments, result: Any) -> None:
    """Whole groups go exactly; channels within every group go too, but not exactly."""
    weight, groups = given.weight, given.group
    info = tracer.info(given.input)
    for dim in info.dims[2:]:
        tracer.pin(dim, Kind.SPATIAL)
    _affine(tracer, (info.dims[1],), weight, given.bias)
    rows = factor(info.dims[1], info.dims[1].size // groups)
    if rows is None:
        tracer.pin(info.dims[1], Kind.NO_GROUPS, groups)
    else:
        call = tracer.call
        known = call is not None and call.name == "group_norm"
        written = call.argument(1, "num_groups", groups) if known and call is not None else groups
        tracer.constrain(written, rows[0])
        if rows[1].size > 1:
            tracer.inexact(rows[1], Kind.NORMALISED, "channels within a group")
    out, *statistics = flat_tensors(result)
    zero = [False] * out.dim()
    zero[1] = _affine_zero(tracer, info.zero[1], weight, given.bias)
    tracer.cost("activation_bytes", math.prod(out.shape[2:]) * out.element_size(), info.dims[:2])
    tracer.give(out, info.dims, zero)
    for other in statistics:  # (batch, groups)
        tracer.give(
            other, tracer.fixed(other.shape) if rows is None else (info.dims[0], rows[0]), [False] * other.dim()
        )


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(tracer: Tracer, given: Arguments, result: Any) -> None:
    """v scaled to the norms g along one dimension."""
    dim, info, norms = given.dim, tracer.info(given.v), tracer.info(given.g)
    if norms.dims[dim].size == info.dims[dim].size:
        tracer.unify(info.dims[dim], norms.dims[dim])
        tracer.role(norms.dims[dim], "scale")
    tracer.inexact(info.dims[dim], Kind.ZERO_DIRECTION)
    out, *others = flat_tensors(result)
    tracer.give(out, info.dims, info.zero)
    for other in others:
        tracer.give(other, norms.dims, norms.zero)
