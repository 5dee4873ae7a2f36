"""Operations that give dimensions another form: reshaped, moved, repeated, read by strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from icycle.axes import Axis, Dim, is_pinned, leaves, product, regroup, resolve
from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._code import NEVER
from icycle.tracing._expressions import FLATTEN
from icycle.tracing._registry import rule
from icycle.tracing._sizes import FromDim, TracedInt
from icycle.tracing._tracer import Call, Dims, Tracer, Written


@rule("view", "_unsafe_view", "reshape", "_reshape_copy", "_reshape_alias", "view_copy")
def view(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Regroup the factors."""
    info = tracer.info(given.self)
    if given.get("dtype") is not None:  # the bits as another type, of which fewer or more make up the last dimension
        same = result.shape == given.self.shape
        last = info.dims[-1:] if same else tracer.fixed(result.shape[-1:])
        if not same:
            tracer.pin(info.dims[-1], Kind.MEMORY)
        tracer.give(result, (*info.dims[:-1], *last), info.zero, info)
        return
    dims = _reshaped(tracer, info.dims, result.shape, _given_sizes(tracer, result))
    clean = all(flag for flag, dim in zip(info.zero, info.dims, strict=True) if not is_pinned(dim))
    tracer.give(result, dims, [clean] * len(dims), info)


def _reshaped(tracer: Tracer, dims: Sequence[Dim], sizes: Sequence[int], given: Sequence[Any] | None) -> Dims:
    """The dimensions after a reshape; `given` are the sizes as the caller wrote them, None inside torch's own code.

    Torch's own code computes its sizes from the tensors, so what it merges stays right; where it splits an axis, the
    constant it used is unknown, and the axis is pinned.
    """
    before = [axis for dim in dims for axis in leaves(dim)]
    after = regroup(dims, sizes, tracer.place)
    if given is None:
        for axis in before:
            if not isinstance(resolve(axis), Axis):
                tracer.pin(axis, Kind.UNKNOWN_SPLIT)
        return after
    for place, (size, dim) in enumerate(zip(given, after, strict=True)):
        if size != -1:
            tracer.constrain(size, dim, _written(dims, sizes, given, place))
    return after


_CHANCE = (Kind.INPUT, Kind.SPATIAL, Kind.POSITIONS, Kind.COMPUTED)


def _written(dims: Sequence[Dim], sizes: Sequence[int], given: Sequence[Any], place: int) -> Written | None:
    """How the code could do without this size: with -1 in its place. Where -1 stands in another's, and the reshape only
    joins all dimensions from this place on, by flattening them; unless that is by chance, for positions are among
    them, and another input has others."""
    if -1 not in given:
        return Written(place, len(given))
    joined = dims[place:]
    last = [dim.size for dim in dims[:place]] == list(sizes[:place])
    pinned = (axis.pinned for dim in joined for axis in leaves(dim))
    if place < len(given) - 1:
        return None
    joins = last and joined and not any(why is not None and why.kind in _CHANCE for why in pinned)
    return Written(place, len(given), place if joins else NEVER, FLATTEN)


def _given_sizes(tracer: Tracer, result: torch.Tensor) -> list[Any] | None:
    """The sizes of a reshape as the caller wrote them; None inside torch's own code."""
    call = tracer.call
    if call is None:
        return None
    if call.name in ("view", "reshape"):
        sizes = call.variadic(1, "shape", "size")
    elif call.name == "unflatten":
        dim = call.argument(1, "dim") % call.args[0].dim()
        inner = call.argument(2, "sizes")
        sizes = [*[-1] * dim, *inner, *[-1] * (result.dim() - dim - len(inner))]
    elif call.name in ("view_as", "reshape_as"):
        sizes = [TracedInt(dim.size, FromDim(dim)) for dim in tracer.dims(call.argument(1, "other"))]
    else:
        return None
    return sizes if len(sizes) == result.dim() and all(isinstance(size, int) for size in sizes) else None


@rule("t", "transpose", "permute", "numpy_T")
def permute(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Move dimensions."""
    info = tracer.info(given.self)
    order = list(range(len(info.dims)))
    if given.name == "permute":
        order = [dim % len(order) for dim in given.dims]
    elif given.name in ("t", "numpy_T"):
        order.reverse()
    else:
        a, b = given.dim0, given.dim1
        order[a], order[b] = order[b], order[a]
    tracer.give(result, [info.dims[dim] for dim in order], [info.zero[dim] for dim in order], info)


@rule("unsqueeze")
def unsqueeze(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Insert a dimension of one element."""
    info = tracer.info(given.self)
    dims, zero = list(info.dims), list(info.zero)
    place = given.dim % (len(dims) + 1)
    dims.insert(place, tracer.fixed([1])[0])
    zero.insert(place, False)
    tracer.give(result, dims, zero, info)


@rule("squeeze")
def squeeze(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Drop dimensions of one element: all, one or some."""
    info = tracer.info(given.self)
    rank = len(info.dims)
    named = given.get("dim", range(rank))
    named = [named] if isinstance(named, int) else named
    dropped = {dim % rank for dim in named if info.dims[dim].size == 1} if rank else set()
    kept = [place for place in range(rank) if place not in dropped]
    tracer.give(result, [info.dims[place] for place in kept], [info.zero[place] for place in kept], info)


@rule("expand", "expand_copy", "broadcast_to")
def expand(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """A repeated element belongs to the dimension from which the size was read."""
    info = tracer.info(given.self)
    written = _expanded_sizes(tracer, result)
    new = result.dim() - len(info.dims)
    dims, zero = [], []
    for place, size in enumerate(result.shape):
        own = info.dims[place - new] if place >= new else None
        if own is not None and own.size == size:
            dims.append(own)
            zero.append(info.zero[place - new])
            if written is not None and written[place] != -1 and size != 1:
                tracer.constrain(written[place], own)
            continue
        dims.append(_repeated(tracer, size, None if written is None else written[place]))
        zero.append(False)
    tracer.give(result, dims, zero, info)


def _expanded_sizes(tracer: Tracer, result: torch.Tensor) -> Sequence[Any] | None:
    """The sizes as the caller wrote them; None inside torch's own code."""
    call = tracer.call
    if call is None or call.name not in ("expand", "broadcast_to", "expand_as"):
        return None
    if call.name == "expand_as":
        other = call.argument(1, "other")
        written: Sequence[Any] = [TracedInt(dim.size, FromDim(dim)) for dim in tracer.dims(other)]
    else:
        written = call.variadic(1, "size", "shape")
    return written if len(written) == result.dim() else result.shape  # under torch.vmap the caller sees fewer


def _repeated(tracer: Tracer, size: int, given: Any) -> Dim:
    dim = Axis(size)
    if given is not None:
        tracer.constrain(given, dim)
    elif tracer.call is not None and _repeats(tracer.call):
        tracer.pin(dim, Kind.REPEATED)
    return dim  # else torch's own code reads the size from what it then combines this with


_REPEATERS = frozenset(("repeat_interleave", "tile", "kron", "meshgrid"))


def _repeats(call: Call) -> bool:
    """Whether torch's function says itself how often; one key that all queries share is there as often as they are."""
    grouped = call.name == "scaled_dot_product_attention" and call.argument(1, "key").shape[-3:-2] != (1,)
    return grouped or call.name in _REPEATERS


@rule("repeat")
def repeat(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Whole copies one after the other: the number of copies, then the dimension."""
    info = tracer.info(given.self)
    call = tracer.call
    times: Sequence[Any] = given.repeats
    if call is not None and call.name in ("repeat", "tile"):
        written = call.variadic(1, "repeats", "dims")
        times = written if len(written) == len(times) else times
    new = len(times) - len(info.dims)
    dims, zero = [], []
    for place, copies in enumerate(times):
        own = info.dims[place - new] if place >= new else None
        outer = _repeated(tracer, int(copies), copies)
        dims.append(outer if own is None else product((outer, own)))
        zero.append(own is not None and info.zero[place - new])
        if own is not None and copies != 1:
            tracer.inexact(outer, Kind.REPEATED)  # a copy that goes is not zero
    tracer.give(result, dims, zero)


@rule("as_strided_")
def restride(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Inside torch's pooling: other strides, for dimensions of one element alone."""
    info = tracer.info(given.self)
    sizes, strides = list(given.size), list(given.stride)
    whole = [place for place, size in enumerate(sizes) if size > 1]
    dense = [math.prod(sizes[place + 1 :]) for place in whole]
    torchs = tracer.call is None or tracer.call.name != "as_strided_"
    if not (torchs and sizes == [dim.size for dim in info.dims] and [strides[place] for place in whole] == dense):
        for dim in info.dims:
            tracer.pin(dim, Kind.MEMORY)
        tracer.give(result, tracer.fixed(result.shape), [False] * result.dim())


@rule("as_strided", "as_strided_copy")
def strided(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """A view of any elements: which channel one belongs to is not followed."""
    info = tracer.info(given.self)
    for dim in info.dims:
        tracer.pin(dim, Kind.MEMORY)
    tracer.give(result, tracer.fixed(result.shape, Kind.MEMORY), [False] * result.dim(), info)
