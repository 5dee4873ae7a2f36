"""Fused attention and softmax."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F

from icycle.axes import Dim, factor
from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._registry import register, rule
from icycle.tracing._tracer import Dims, Tracer, flat_tensors


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax", "logcumsumexp", "cumsum", "cumprod")
def along_one_dimension(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Every element of the dimension takes part in every result along it."""
    info = tracer.info(given.self)
    if info.dims:
        tracer.pin(info.dims[given.dim], Kind.ALL_TAKE_PART)
    keeps_zero = given.name in ("cumsum", "cumprod")  # logcumsumexp does not
    tracer.give(result, info.dims, [keeps_zero and flag for flag in info.zero])


def _add_bias(tracer: Tracer, scores: Dims, bias: Dims) -> None:
    """scores (batch, heads, n, m), and what is added to them, which broadcasts."""
    for score, own in zip(reversed(scores), reversed(bias), strict=False):
        if own.size == score.size:
            tracer.role(own, "shift")
            tracer.unify(score, own)


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
    for name in ("attn_mask", "attn_bias"):
        if given.get(name) is not None:
            _add_bias(tracer, (*query.dims[:-1], key.dims[-2]), tracer.dims(given.get(name)))
    for dim in (query.dims[-2], key.dims[-2], *(() if tracer.head_width else (query.dims[-1], value.dims[-1]))):
        tracer.pin(dim, Kind.HEAD_WIDTH)
    tracer.cost("macs", 1, (*query.dims, key.dims[-2]))
    tracer.cost("macs", 1, (*query.dims[:-1], value.dims[-2], value.dims[-1]))
    out, *others = flat_tensors(result)
    zero = [value.zero[0], *value.zero[1:-2], False, value.zero[-1]]
    tracer.give(out, (*query.dims[:-1], value.dims[-1]), zero)
    for other in others:
        tracer.give(other, tracer.fixed(other.shape), [False] * other.dim())


_FORWARD = inspect.signature(F.multi_head_attention_forward)
_WEIGHTS = (
    "in_proj_weight",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
    "in_proj_bias",
    "bias_k",
    "bias_v",
    "key_padding_mask",
    "attn_mask",
    "static_k",
    "static_v",
)


@register("torch::multi_head_attention_forward")
def attention_function(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
    """query (n, batch, width), key and value (m, batch, width), or all without batch -> (n, batch, out).

    The function called by itself, which refuses any heads and widths but those of the whole embedding: of its weights
    only the outputs of the last projection can go. A layer's own heads are those of a stand-in, and do not come here.
    """
    call = _FORWARD.bind(*args, **kwargs)
    call.apply_defaults()
    given = call.arguments
    sequences = [tracer.info(given[name]) for name in ("query", "key", "value")]
    last, bias = tracer.info(given["out_proj_weight"]), given["out_proj_bias"]
    weights = [tracer.dims(given[name]) for name in _WEIGHTS if given[name] is not None]
    tied = [*(info.dims for info in sequences), *weights, last.dims[1:]]
    for dim in (dim for dims in tied for dim in dims):
        tracer.pin(dim, Kind.TIED_WIDTH)
    tracer.role(last.dims[0], "out")
    tracer.role(last.dims[1], "in")
    if bias is not None:
        tracer.role(tracer.dims(bias)[0], "shift")
        tracer.unify(last.dims[0], tracer.dims(bias)[0])
    _count(tracer, given, last.dims[0])
    out, *others = flat_tensors(result)
    zero = last.zero[0] and (bias is None or tracer.info(bias).zero[0])
    tracer.give(out, (*sequences[0].dims[:-1], last.dims[0]), [False] * (out.dim() - 1) + [zero])
    for other in others:
        tracer.give(other, tracer.fixed(other.shape), [False] * other.dim())


def _count(tracer: Tracer, given: Any, out: Dim) -> None:
    """Three projections, the products of all pairs of positions twice, and a projection to `out`."""
    query, key, value = given["query"], given["key"], given["value"]
    width, batch = query.shape[-1], query.shape[1] if query.dim() == 3 else 1
    seen = key.shape[0] + (given["bias_k"] is not None) + bool(given["add_zero_attn"])
    tracer.cost("macs", width * (query.numel() + key.numel() + value.numel()), ())
    tracer.cost("macs", 2 * batch * query.shape[0] * seen * width, ())
    tracer.cost("macs", query.numel(), (out,))
    tracer.cost("activation_bytes", batch * query.shape[0] * query.element_size(), (out,))
