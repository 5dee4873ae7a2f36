"""Fused attention and softmax."""

from __future__ import annotations

from typing import Any

import torch

from icycle.axes import factor
from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._registry import rule
from icycle.tracing._tracer import Tracer, flat_tensors


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax", "logcumsumexp", "cumsum", "cumprod")
def along_one_dimension(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Every element of the dimension takes part in every result along it."""
    info = tracer.info(given.self)
    if info.dims:
        tracer.pin(info.dims[given.dim], Kind.ALL_TAKE_PART)
    keeps_zero = given.name in ("cumsum", "cumprod")  # logcumsumexp does not
    tracer.give(result, info.dims, [keeps_zero and flag for flag in info.zero])


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention")
@rule("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")
@rule("_scaled_dot_product_attention_math", "_scaled_dot_product_fused_attention_overrideable")
@rule("_scaled_dot_product_attention_math_for_mps", "scaled_dot_product_attention")
def attention(tracer: Tracer, given: Arguments, result: Any) -> None:
    """query (batch, heads, n, width), key (batch, key-value heads, m, width), value (batch, key-value heads, m,
    width)."""
    query, key, value = (tracer.info(tensor) for tensor in (given.query, given.key, given.value))
    tracer.unify(query.dims[0], key.dims[0])
    tracer.unify(query.dims[0], value.dims[0])
    for q, k, v in zip(query.dims[1:-2], key.dims[1:-2], value.dims[1:-2], strict=True):
        tracer.unify(k, v)
        rows = factor(q, q.size // k.size) if q.size != k.size else None
        tracer.unify(k, rows[0] if rows is not None else q)
        if rows is not None:
            tracer.pin(rows[1], Kind.PARTS, "query heads per key-value head")
    tracer.unify(query.dims[-1], key.dims[-1])
    tracer.unify(key.dims[-2], value.dims[-2])
    for dim in (query.dims[-2], key.dims[-2], *(() if tracer.head_width else (query.dims[-1], value.dims[-1]))):
        tracer.pin(dim, Kind.HEAD_WIDTH)
    tracer.cost("macs", 1, (*query.dims, key.dims[-2]))
    tracer.cost("macs", 1, (*query.dims[:-1], value.dims[-2], value.dims[-1]))
    out, *others = flat_tensors(result)
    zero = [value.zero[0], *value.zero[1:-2], False, value.zero[-1]]
    tracer.give(out, (*query.dims[:-1], value.dims[-1]), zero)
    for other in others:
        tracer.give(other, tracer.fixed(other.shape), [False] * other.dim())
