"""Reductions, and operations that order or select elements by value."""

from __future__ import annotations

from typing import Any

from icycle.reasons import Kind
from icycle.tracing._registry import register
from icycle.tracing._tracer import Tracer, flat_tensors
from icycle.tracing.rules.elementwise import elementwise


@register("sum", "mean", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean", "norm", "nansum")
@register("linalg_vector_norm", "any", "all", "logsumexp", "aminmax", "count_nonzero", "median", "nanmedian", "mode")
@register("argmax", "argmin")
def reduction(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Reduced dimensions may lose elements where the result only changes by what was removed; positions may not."""
    name = operation.name().split("::")[1].split(".")[0]
    tensors = list(flat_tensors(args))
    x = tensors[0]
    if len(tensors) > 1 or x.dim() == 0:  # max(x, y) is element-wise
        return elementwise(tracer, operation, args, kwargs, result)
    info = tracer.info(x)
    reduced = _reduced(name, args, kwargs, x.dim())
    for position in reduced:
        _check(tracer, name, info.dims[position], info.zero[position])
    for out in flat_tensors(result):
        kept_size = out.dim() == x.dim()
        places = [place for place in range(x.dim()) if kept_size or place not in reduced]
        dims = [tracer.fixed([1])[0] if place in reduced else info.dims[place] for place in places]
        keeps_zero = name in ("sum", "mean", "amax", "amin", "max", "min", "prod", "norm", "linalg_vector_norm")
        tracer.give(out, dims, [keeps_zero and info.zero[place] for place in places])
    return None


def _reduced(name: str, args: Any, kwargs: Any, rank: int) -> set[int]:
    position = {"norm": 2, "linalg_vector_norm": 2}.get(name, 1)
    given = args[position] if len(args) > position else kwargs.get("dim")
    if given is None or isinstance(given, bool) or (isinstance(given, (tuple, list)) and not given):
        return set(range(rank))
    return {dim % rank for dim in (given if isinstance(given, (tuple, list)) else [given])}


def _check(tracer: Tracer, name: str, dim: Any, zero: bool) -> None:
    if name in ("argmax", "argmin", "median", "nanmedian", "mode", "logsumexp", "prod", "max", "min"):
        tracer.pin(dim, Kind.COMPARED)
    elif name in ("sum", "nansum", "norm", "linalg_vector_norm", "count_nonzero"):
        if not zero:
            tracer.inexact(dim, Kind.SUM_NOT_ZERO)
    else:
        tracer.inexact(dim, Kind.MOMENT, name)


@register("sort", "topk", "argsort", "kthvalue", "msort")
def ordering(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
    """The ordered dimension is pinned; the others pass."""
    info = tracer.info(args[0])
    rank = len(info.dims)
    numbers = [value for value in args[1:] if isinstance(value, int) and not isinstance(value, bool)]
    name = operation.name()
    place = (numbers[1:2] if "topk" in name or "kth" in name else numbers[:1]) or [kwargs.get("dim", -1)]
    position = place[0] % rank if rank else 0
    if rank:
        tracer.pin(info.dims[position], Kind.ORDERED)
    for out in flat_tensors(result):
        dims = (
            [info.dims[i] if i != position else tracer.fixed([size])[0] for i, size in enumerate(out.shape)]
            if out.dim() == rank
            else list(tracer.fixed(out.shape))
        )
        tracer.give(out, dims, [False] * out.dim())
