"""Operations that move, split, join and repeat dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from icycle.axes import Axis, Dim, balance, cut, factor, is_pinned, leaves, product, regroup, resolve, sum_of
from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._code import FLATTEN, NEVER
from icycle.tracing._registry import rule
from icycle.tracing._sizes import FromDim, Literal, Operation, TracedInt, origin_of
from icycle.tracing._tracer import Dims, Info, Tracer, Written, flat_tensors


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
    elif tracer.call is not None and tracer.call.name in _REPEATERS:
        tracer.pin(dim, Kind.REPEATED)
    return dim  # else torch's own code reads the size from what it then combines this with


_REPEATERS = frozenset(("repeat_interleave", "scaled_dot_product_attention", "tile", "kron", "meshgrid"))


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


@rule("embedding")
def embedding(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """weight (rows, width) at index (...) -> (..., width)."""
    rows, width = tracer.dims(given.weight)
    tracer.role(rows, "in")
    tracer.role(width, "out")
    tracer.pin(rows, Kind.INDEXED)
    index = tracer.dims(given.indices)
    tracer.give(result, (*index, width), [False] * len(index) + [tracer.info(given.weight).zero[1]])


@rule("index", "_unsafe_index", "index_select")
def index(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Indexed dimensions are pinned; the others pass."""
    info = tracer.info(given.self)
    indexed = [tensor for name, tensor in given.operands().items() if name != "self"]
    if given.name == "index_select":
        places, width = [given.dim % len(info.dims)], 1
    else:
        places = _indexed(given.indices)
        width = result.dim() - (len(info.dims) - len(places))
    for place in places:
        tracer.pin(info.dims[place], Kind.INDEXED)
    for tensor in indexed:
        for dim in tracer.dims(tensor):
            tracer.pin(dim, Kind.INDEX)
    if len(places) == len(info.dims):
        tracer.give(result, tracer.fixed(result.shape), [False] * result.dim())
        return
    adjacent = places == list(range(places[0], places[-1] + 1))
    front = places[0] if adjacent else 0
    kept = [place for place in range(len(info.dims)) if place not in places]
    fresh = tracer.fixed(result.shape[front : front + width], Kind.INDEXED)
    dims = [info.dims[place] for place in kept]
    zero = [info.zero[place] for place in kept]
    dims[front:front] = fresh
    zero[front:front] = [False] * width
    tracer.give(result, dims, zero)


def _indexed(indices: Sequence[torch.Tensor | None]) -> list[int]:
    """The dimensions that are indexed: one by each tensor of numbers, by a mask as many as it has."""
    places: list[int] = []
    position = 0
    for tensor in indices:
        width = tensor.dim() if tensor is not None and tensor.dtype in (torch.bool, torch.uint8) else 1
        if tensor is not None:
            places += range(position, position + width)
        position += width
    return places


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
