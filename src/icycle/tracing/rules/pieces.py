"""Operations that join tensors, and take them apart."""

from __future__ import annotations

from typing import Any

import torch

from icycle.axes import Dim, balance, cut, factor, resolve, sum_of
from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._registry import rule
from icycle.tracing._sizes import FromDim, Literal, Operation, TracedInt, origin_of
from icycle.tracing._tracer import Info, Tracer, flat_tensors


@rule("cat", "concat")
def cat(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Concatenate along one dimension; the others are the same."""
    infos = [tracer.info(tensor) for tensor in given.tensors if tensor.shape != (0,)]
    if not infos:
        tracer.give(result, tracer.fixed(result.shape), [False])
        return
    along = given.dim % result.dim()
    first = infos[0]
    for info in infos[1:]:
        for place in range(result.dim()):
            if place != along:
                tracer.unify(first.dims[place], info.dims[place])
    dims = list(first.dims)
    dims[along] = sum_of(resolve(info.dims[along]) for info in infos)
    tracer.give(result, dims, [all(info.zero[place] for info in infos) for place in range(result.dim())])


@rule("stack")
def stack(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """A new dimension of as many elements as there are tensors."""
    infos = [tracer.info(tensor) for tensor in given.tensors]
    for info in infos[1:]:
        tracer.unify_all(infos[0].dims, info.dims)
    dims = list(infos[0].dims)
    zero = [all(info.zero[place] for info in infos) for place in range(len(dims))]
    place = given.dim % result.dim()
    dims.insert(place, tracer.fixed([len(infos)], Kind.STACKED)[0])
    zero.insert(place, False)
    tracer.give(result, dims, zero)


@rule("slice", "slice_copy")
def slice_(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """What lies before a bound must keep the number of elements that the bound says."""
    info, place, start, stop, step = tracer.info(given.self), given.dim, given.start, given.end, given.step
    dims, zero = list(info.dims), list(info.zero)
    size = dims[place].size
    start, stop = _bound(start, 0, size), _bound(stop, size, size)
    place %= len(dims)
    if (start, stop) == (0, size) and step in (None, 1):
        pass
    elif step not in (None, 1):
        tracer.pin(dims[place], Kind.EVERY_NTH)
        dims[place] = tracer.fixed([result.shape[place]])[0]
    elif tracer.call is not None and tracer.call.name in _UNEVEN:
        tracer.pin(dims[place], Kind.UNKNOWN_SIZES)
        dims[place] = tracer.fixed([result.shape[place]])[0]
    else:
        dims[place] = _piece(tracer, dims[place], start, max(start, stop), place, result.dim())
    if tracer.call is not None and tracer.call.name == "narrow":  # a length is never cut short, as a bound is
        tracer.constrain(tracer.call.argument(3, "length"), dims[place])
    tracer.give(result, dims, zero, info)


# composed of slices, whose bounds follow from the number of elements in a way of their own
_UNEVEN = frozenset(("tensor_split", "hsplit", "vsplit", "dsplit"))


def _bound(value: int | None, default: int, size: int) -> int:
    if value is None:
        return default
    return max(0, min(size, value + size if value < 0 else value))


def _given_bounds(tracer: Tracer, place: int, rank: int) -> tuple[Any, Any]:
    """The bounds of a slice as the caller wrote them: None where there is none."""
    call = tracer.call
    if call is None:
        return None, None
    if call.name == "narrow":
        start, length = call.argument(2, "start"), call.argument(3, "length")
        return start, start + length
    if call.name in ("__getitem__", "__setitem__"):
        piece = _index_at(call.args[1], place, rank)
        if isinstance(piece, slice):
            return piece.start, piece.stop
    return None, None


def _index_at(index: Any, place: int, rank: int) -> Any:
    """The slice of an index expression that torch is applying to dimension `place` of a tensor of `rank` dimensions.

    torch works from the left: an integer has dropped its dimension and None has added one by the time it comes to the
    slices behind them, so what remains of the expression counts as it stands.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    position = 0
    for number, part in enumerate(parts):
        if part is Ellipsis:
            rest = parts[number + 1 :]
            position = rank - sum(other is not None for other in rest)
        elif isinstance(part, int) and not isinstance(part, bool):
            continue
        else:
            if position == place and isinstance(part, slice):
                return part
            position += 1
    return None


def _piece(tracer: Tracer, dim: Dim, start: int, stop: int, place: int, rank: int) -> Dim:
    given_start, given_stop = _given_bounds(tracer, place, rank)
    size = dim.size
    _divide(dim, given_start, given_stop)
    pieces = cut(dim, stop)
    front = cut(pieces[0], start) if pieces is not None else None
    if pieces is None or front is None:
        tracer.pin(dim, Kind.CUT_ROW)
        return tracer.fixed([stop - start])[0]
    if start:
        _constrain_bound(tracer, given_start, front[0], start, front[1], pieces[1], size)
    if stop < size:
        _constrain_bound(tracer, given_stop, pieces[0], stop, pieces[1], None, size)
    return front[1]


def _constrain_bound(
    tracer: Tracer, given: Any, before: Dim, value: int, after: Dim, rest: Dim | None, size: int
) -> None:
    """Tie the bound to what lies before it, or, counted from the end, to what lies after."""
    if given is None:
        tracer.pin(before, Kind.LITERAL_CUT, value)
    elif given < 0:
        tracer.constrain(-given, after if rest is None else sum_of((resolve(after), resolve(rest))))
    else:
        tracer.constrain(given, before)


def _divide(dim: Dim, *bounds: Any) -> None:
    """Where a bound is computed as the k-th part of this very dimension, make its k parts one and the same axis."""
    for bound in bounds:
        origin = origin_of(bound) if isinstance(bound, TracedInt) else None
        if isinstance(origin, Operation) and origin.symbol == "*":
            origin = origin.left if isinstance(origin.left, Operation) else origin.right
        if (
            isinstance(origin, Operation)
            and origin.symbol == "//"
            and isinstance(origin.left, FromDim)
            and isinstance(origin.right, Literal)
            and resolve(origin.left.dim) == resolve(dim)
        ):
            factor(dim, dim.size // origin.right.value)


@rule("split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes", "chunk", "unsafe_chunk", "split_copy")
@rule("split_with_sizes_copy", "tensor_split")
def split(tracer: Tracer, given: Arguments, result: Any) -> None:
    """Cut a dimension: into equal parts (the parts are one axis), or at stated sizes (each part its own)."""
    info = tracer.info(given.self)
    place = given.dim % len(info.dims)
    pieces = flat_tensors(result)
    sizes = [piece.shape[place] for piece in pieces]
    parts = _parts(tracer, info.dims[place], sizes)
    for piece, part in zip(pieces, parts, strict=True):
        dims, zero = list(info.dims), list(info.zero)
        dims[place] = part
        tracer.give(piece, dims, zero, info)


def _parts(tracer: Tracer, dim: Dim, sizes: list[int]) -> list[Dim]:
    call = tracer.call
    name = call.name if call is not None else ""
    given = call.argument(1, "split_size_or_sections", call.kwargs.get("split_size")) if call is not None else None
    if name in ("split", "split_with_sizes", "unsafe_split") and isinstance(given, (tuple, list)):
        return _stated_parts(tracer, dim, sizes, list(given))
    if len(sizes) == 1 and name in ("split", "chunk", "tensor_split"):
        return [dim]  # the piece is all there is, and still is when there is less
    if name in ("chunk", "unsafe_chunk", "tensor_split") and len(set(sizes)) == 1:
        return _equal_parts(tracer, dim, sizes, None)
    if name in ("split", "unsafe_split") and given is not None and len(set(sizes)) == 1:
        return _equal_parts(tracer, dim, sizes, given)
    tracer.pin(dim, Kind.UNKNOWN_SIZES)
    return list(tracer.fixed(sizes))


def _equal_parts(tracer: Tracer, dim: Dim, sizes: list[int], given: Any) -> list[Dim]:
    rows = factor(dim, sizes[0])
    if rows is not None:
        tracer.pin(rows[0], Kind.PARTS, "parts")
        parts = [rows[1]] * len(sizes)
    else:
        parts = _cut_at(tracer, dim, sizes)
        balance(parts, tracer.place)
    if given is not None:
        tracer.constrain(given, parts[0])
    return parts


def _stated_parts(tracer: Tracer, dim: Dim, sizes: list[int], given: list[Any]) -> list[Dim]:
    parts = _cut_at(tracer, dim, sizes)
    for size, part in zip(given, parts, strict=True):
        tracer.constrain(size, part)
    return parts


def _cut_at(tracer: Tracer, dim: Dim, sizes: list[int]) -> list[Dim]:
    parts: list[Dim] = []
    rest = dim
    for size in sizes:
        pieces = cut(rest, size)
        if pieces is None:
            tracer.pin(dim, Kind.CUT_ROW)
            return list(tracer.fixed(sizes))
        parts.append(pieces[0])
        rest = pieces[1]
    return parts


@rule("glu")
def glu(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """The first half times the sigmoid of the second: the halves are one axis."""
    info = tracer.info(given.self)
    place = given.dim % len(info.dims)
    dims = list(info.dims)
    dims[place] = _equal_parts(tracer, info.dims[place], [result.shape[place]] * 2, None)[0]
    tracer.give(result, dims, info.zero)


@rule("unbind", "unbind_copy")
def unbind(tracer: Tracer, given: Arguments, result: Any) -> None:
    """One tensor per element: the code expects their number."""
    info = tracer.info(given.self)
    place = given.dim % len(info.dims)
    tracer.pin(info.dims[place], Kind.TAKEN_APART)
    for piece in flat_tensors(result):
        _drop(tracer, piece, info, place)


@rule("select", "select_copy")
def select(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """One element by its number."""
    info = tracer.info(given.self)
    place = given.dim % len(info.dims)
    tracer.pin(info.dims[place], Kind.NUMBERED)
    _drop(tracer, result, info, place)


def _drop(tracer: Tracer, out: torch.Tensor, info: Info, place: int) -> None:
    tracer.give(out, info.dims[:place] + info.dims[place + 1 :], info.zero[:place] + info.zero[place + 1 :], info)
