"""Reductions, and operations that order or select elements by value."""

from __future__ import annotations

from typing import Any

from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._registry import rule
from icycle.tracing._tracer import Tracer, flat_tensors
from icycle.tracing.rules.elementwise import elementwise


@rule("sum", "mean", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean", "norm", "nansum")
@rule("linalg_vector_norm", "any", "all", "logsumexp", "aminmax", "count_nonzero", "median", "nanmedian", "mode")
@rule("argmax", "argmin")
def reduction(tracer: Tracer, given: Arguments, result: Any) -> None:
    """Reduced dimensions may lose elements where the result only changes by what was removed; positions may not."""
    name, (x, *others) = given.name, given.operands().values()
    if others or x.dim() == 0:  # max(x, y) is element-wise
        return elementwise(tracer, given, result)
    info = tracer.info(x)
    reduced = _reduced(given.get("dim"), x.dim())
    power = given.get("ord", given.get("p", 2)) if "norm" in name else None
    for position in reduced:
        _check(tracer, name, info.dims[position], info.zero[position] and _skips_zeros(power))
    for out in flat_tensors(result):
        kept_size = out.dim() == x.dim()
        places = [place for place in range(x.dim()) if kept_size or place not in reduced]
        dims = [tracer.fixed([1])[0] if place in reduced else info.dims[place] for place in places]
        values = out.is_floating_point() or out.is_complex()  # else positions, which are not zero where values are
        keeps_zero = values and name in _ZERO_PRESERVING and _skips_zeros(power)
        tracer.give(out, dims, [keeps_zero and info.zero[place] for place in places])
    return None


# over zeros they are zero
_ZERO_PRESERVING = frozenset(
    "sum nansum mean amax amin max min prod norm linalg_vector_norm var std var_mean std_mean".split()
)


def _reduced(dim: Any, rank: int) -> set[int]:
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return set(range(rank))
    return {place % rank for place in (dim if isinstance(dim, (tuple, list)) else [dim])}


def _skips_zeros(power: Any) -> bool:
    """False for a norm that is the least of the magnitudes, or a sum of their negative powers: zero is felt there."""
    return power is None or (isinstance(power, (int, float)) and power > 0) or power in ("fro", "nuc")


def _check(tracer: Tracer, name: str, dim: Any, zero: bool) -> None:
    if name in ("argmax", "argmin", "median", "nanmedian", "mode", "logsumexp", "prod", "max", "min"):
        tracer.pin(dim, Kind.COMPARED)
    elif name in ("sum", "nansum", "norm", "linalg_vector_norm", "count_nonzero"):
        if not zero:
            tracer.inexact(dim, Kind.SUM_NOT_ZERO)
    else:
        tracer.inexact(dim, Kind.MOMENT, name)


@rule("sort", "topk", "argsort", "kthvalue", "msort")
def ordering(tracer: Tracer, given: Arguments, result: Any) -> None:
    """The ordered dimension is pinned; the others pass."""
    info = tracer.info(given.self)
    rank = len(info.dims)
    position = (0 if given.name == "msort" else given.dim) % max(rank, 1)
    if rank:
        tracer.pin(info.dims[position], Kind.ORDERED)
    for out in flat_tensors(result):
        dims = (
            [info.dims[i] if i != position else tracer.fixed([size])[0] for i, size in enumerate(out.shape)]
            if out.dim() == rank
            else list(tracer.fixed(out.shape))
        )
        tracer.give(out, dims, [False] * out.dim())
