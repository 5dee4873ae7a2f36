"""Looking up, gathering, scattering and adding by index: the indexed dimension is positions, the others pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments, bind
from icycle.tracing._registry import register, rule
from icycle.tracing._tracer import Info, Tracer, flat_tensors


def _pass_others(tracer: Tracer, place: int, infos: list[Info], indexed: Kind = Kind.INDEXED) -> None:
    """Pin dimension `place` of all, and make the others the same, or pin them where only a part of them is indexed."""
    for position, dims in enumerate(zip(*(info.dims for info in infos), strict=True)):
        if position == place or len({dim.size for dim in dims}) > 1:
            for dim in dims:
                tracer.pin(dim, indexed)
        else:
            for dim in dims[1:]:
                tracer.unify(dims[0], dim)


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


@rule("gather")
def gather(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """self and index have equally many dimensions; the result has the index's."""
    x, index = tracer.info(given.self), tracer.info(given.index)
    if not x.dims or not index.dims:
        for dim in (*x.dims, *index.dims):
            tracer.pin(dim, Kind.INDEXED)
        tracer.give(result, tracer.fixed(result.shape, Kind.INDEXED), [False] * result.dim())
        return
    place = given.dim % len(x.dims)
    _pass_others(tracer, place, [x, index])
    tracer.give(result, index.dims, [flag and position != place for position, flag in enumerate(x.zero)])


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """self, index and src have equally many dimensions; the result has those of self.

    Sums, means, products and extremes of zeros are zero.
    """
    x, index, source = tracer.info(given.self), tracer.info(given.index), given.get("src")
    infos = [x, index] if source is None else [x, index, tracer.info(source)]
    place = given.dim % max(len(x.dims), 1)
    _pass_others(tracer, place, infos)
    stays = infos[2].zero if source is not None else [given.get("value", 1) == 0] * len(x.dims)
    zero = [position != place and a and b for position, (a, b) in enumerate(zip(x.zero, stays, strict=True))]
    tracer.give(result, x.dims, zero)


@rule("index_add", "index_copy", "index_reduce")
def index_add(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """index (n) says at which places of dimension `dim` the n slices of `source` go."""
    x, source = tracer.info(given.self), tracer.info(given.source)
    for dim in tracer.dims(given.index):
        tracer.pin(dim, Kind.INDEX)
    if len(x.dims) != len(source.dims):  # a single slice
        for dim in (*x.dims, *source.dims):
            tracer.pin(dim, Kind.INDEXED)
        tracer.give(result, x.dims, [False] * len(x.dims))
        return
    place = given.dim % max(len(x.dims), 1)
    _pass_others(tracer, place, [x, source])
    both = zip(x.zero, source.zero, strict=True)
    tracer.give(result, x.dims, [position != place and a and b for position, (a, b) in enumerate(both)])


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Leading dimensions are indexed; the values' last dimensions are those that remain, if they are not broadcast."""
    x, values = tracer.info(given.self), tracer.info(given.values)
    indices = [tensor for tensor in given.indices if tensor is not None]
    for tensor in indices:
        for dim in tracer.dims(tensor):
            tracer.pin(dim, Kind.INDEX)
    leading = len(indices) == len(given.indices)  # else dimensions in between stay, too
    count = sum(tensor.dim() if tensor.dtype == torch.bool else 1 for tensor in indices) if leading else len(x.dims)
    rest = len(x.dims) - count
    for dim in (*x.dims[:count], *values.dims[: max(len(values.dims) - rest, 0)]):
        tracer.pin(dim, Kind.INDEXED)
    zero = [False] * len(x.dims)
    for position in range(count, len(x.dims)):
        place = position - len(x.dims) + len(values.dims)
        if place >= 0 and values.dims[place].size == x.dims[position].size:
            tracer.unify(x.dims[position], values.dims[place])
            zero[position] = x.zero[position] and values.zero[place]
    if not leading:
        for dim in values.dims:
            tracer.pin(dim, Kind.INDEXED)
    tracer.give(result, x.dims, zero)


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(tracer: Tracer, given: Arguments, result: Any) -> None:
    """weight (rows, width), summed, averaged or compared over bags of rows -> (bags, width)."""
    rows, width = tracer.dims(given.weight)
    tracer.role(rows, "in")
    tracer.role(width, "out")
    tracer.pin(rows, Kind.INDEXED)
    for name in ("indices", "offsets", "per_sample_weights"):
        if given.get(name) is not None:
            for dim in tracer.dims(given.get(name)):
                tracer.pin(dim, Kind.INDEX)
    out, *others = flat_tensors(result)
    tracer.give(out, (*tracer.fixed(out.shape[:1], Kind.INDEXED), width), [False, tracer.info(given.weight).zero[1]])
    for other in others:
        dims = tracer.fixed(other.shape, Kind.INDEX)
        if other.dim() == 2 and given.mode == _LARGEST:  # for every bag and channel, from which row it is
            dims = (dims[0], width)
        tracer.give(other, dims, [False] * other.dim())


_LARGEST = 2  # the mode of a bag whose result is the largest of each channel


@rule("torchvision::roi_align", "torchvision::roi_pool")
def roi_align(tracer: Tracer, given: Arguments, result: Any) -> None:
    """input (batch, channels, height, width), rois (k, 5) -> (k, channels, height, width): linear in each channel."""
    x = tracer.info(given.input)
    for dim in (x.dims[0], *x.dims[2:], *tracer.dims(given.rois)):
        tracer.pin(dim, Kind.POSITIONS)
    for out in flat_tensors(result):
        fresh = tracer.fixed(out.shape, Kind.POSITIONS)
        tracer.give(
            out, (fresh[0], x.dims[1], *fresh[2:]), [False, x.zero[1] and out.is_floating_point(), False, False]
        )


@rule("_pack_padded_sequence")
def pack(tracer: Tracer, given: Arguments, result: Any) -> None:
    """input (time, batch, ...) or (batch, time, ...) -> data (steps, ...), and the batch size of every step."""
    x = tracer.info(given.input)
    for dim in (*x.dims[:2], *tracer.dims(given.lengths)):
        tracer.pin(dim, Kind.POSITIONS)
    data, sizes = flat_tensors(result)
    tracer.give(data, (*tracer.fixed(data.shape[:1], Kind.POSITIONS), *x.dims[2:]), [False, *x.zero[2:]])
    tracer.give(sizes, tracer.fixed(sizes.shape, Kind.POSITIONS), [False] * sizes.dim())


@register("torch::_pad_packed_sequence")
def pad_packed(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
    """data (steps, ...) -> (time, batch, ...) or (batch, time, ...), and the lengths.

    The function as a whole: it writes into slices of a new tensor, of which not every one is seen to be filled.
    """
    given = bind(torch.ops.aten._pad_packed_sequence.default, args, kwargs)
    data = tracer.info(given.data)
    for dim in (data.dims[0], *tracer.dims(given.batch_sizes)):
        tracer.pin(dim, Kind.POSITIONS)
    out, *others = flat_tensors(result)
    zero = [flag and given.padding_value == 0 for flag in data.zero[1:]]
    tracer.give(out, (*tracer.fixed(out.shape[:2], Kind.POSITIONS), *data.dims[1:]), [False, False, *zero])
    for other in others:
        tracer.give(other, tracer.fixed(other.shape, Kind.POSITIONS), [False] * other.dim())
