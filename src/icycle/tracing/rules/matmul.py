"""Matrix products: the contracted dimensions are the same, and so are batch dimensions."""

from __future__ import annotations

import torch

from icycle.axes import Axis, Dim, resolve
from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._registry import rule
from icycle.tracing._tracer import Info, Tracer


def _contract(tracer: Tracer, a: torch.Tensor, b: torch.Tensor, left: Dim, right: Dim, axis: tuple[int, int]) -> None:
    """Couple contracted dimensions; between two activations, the sum over removed terms must be zero to be exact."""
    tracer.unify(left, right)
    if not (tracer.info(a).zero[axis[0]] or tracer.info(b).zero[axis[1]]):
        tracer.inexact(left, Kind.SUM_NOT_ZERO)


def _roles(tracer: Tracer, tensor: torch.Tensor, contracted: int) -> None:
    for position, dim in enumerate(tracer.dims(tensor)):
        tracer.role(dim, "in" if position == contracted else "out")


@rule("mm", "addmm", "addmm_relu", "_addmm_activation")
def mm(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """(m, k) x (k, n), with an addend that broadcasts."""
    if given.name == "mm":
        _product(tracer, given.self, given.mat2, None, result)
    else:
        _product(tracer, given.mat1, given.mat2, given.self, result)


@rule("linear")
def linear(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """x (..., k), weight (n, k), bias (n)."""
    info, (n, k), bias = tracer.info(given.input), tracer.dims(given.weight), given.bias
    tracer.role(n, "out")
    tracer.role(k, "in")
    _contract(tracer, given.input, given.weight, info.dims[-1], k, (-1, 1))
    zero = tracer.info(given.weight).zero[0] and (bias is None or tracer.info(bias).zero[0])
    if bias is not None:
        tracer.role(tracer.dims(bias)[0], "shift")
        tracer.unify(n, tracer.dims(bias)[0])
    tracer.cost("macs", 1, (*info.dims, n))
    tracer.cost("activation_bytes", result.element_size(), (*info.dims[:-1], n))
    tracer.give(result, (*info.dims[:-1], n), [flag and bias is None for flag in info.zero[:-1]] + [zero])


def _product(tracer: Tracer, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None, result: torch.Tensor) -> None:
    left, right = tracer.info(a), tracer.info(b)
    _roles(tracer, a, 1)
    _roles(tracer, b, 0)
    _contract(tracer, a, b, left.dims[1], right.dims[0], (1, 0))
    dims, zero = (left.dims[0], right.dims[1]), [left.zero[0], right.zero[1]]
    if bias is not None:
        zero = _add_bias(tracer, bias, dims, zero)
    tracer.cost("macs", 1, (*left.dims, right.dims[1]))
    tracer.cost("activation_bytes", result.element_size(), dims)
    tracer.give(result, dims, zero)


def _add_bias(tracer: Tracer, bias: torch.Tensor, dims: tuple[Dim, ...], zero: list[bool]) -> list[bool]:
    info = tracer.info(bias)
    flags = []
    for position, dim in enumerate(dims):
        place = position - len(dims) + len(info.dims)
        present = place >= 0 and info.dims[place].size == dim.size
        if present:
            tracer.role(info.dims[place], "shift")
            tracer.unify(dim, info.dims[place])
        flags.append(zero[position] and present and info.zero[place])
    return flags


@rule("bmm", "baddbmm")
def bmm(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """(batch, m, k) x (batch, k, n).

    Between two activations with a batch of heads this is attention: the widths inside a head stay as they are unless
    they were asked for.
    """
    with_addend = given.name == "baddbmm"
    a, b = (given.batch1, given.batch2) if with_addend else (given.self, given.mat2)
    left, right = tracer.info(a), tracer.info(b)
    _roles(tracer, a, 2)
    _roles(tracer, b, 1)
    tracer.unify(left.dims[0], right.dims[0])
    _contract(tracer, a, b, left.dims[2], right.dims[1], (2, 1))
    fused = tracer.call is not None and tracer.call.name == "scaled_dot_product_attention"
    if not tracer.head_width and (fused or (left.depends_on_input and right.depends_on_input and _has_heads(left))):
        for dim in (left.dims[1], left.dims[2], right.dims[2]):
            tracer.pin(dim, Kind.HEAD_WIDTH)
    dims = (left.dims[0], left.dims[1], right.dims[2])
    zero = [left.zero[0] or right.zero[0], left.zero[1], right.zero[2]]
    if with_addend:
        zero = _add_bias(tracer, given.self, dims, zero)
    tracer.cost("macs", 1, (*left.dims, right.dims[2]))
    tracer.cost("activation_bytes", result.element_size(), dims)
    tracer.give(result, dims, zero)


def _has_heads(info: Info) -> bool:
    """False where the batch is the model's own, as it comes in: attention pooling, products of a state space."""
    batch = resolve(info.dims[0])
    plain = isinstance(batch, Axis) and batch.pinned is not None and batch.pinned.kind is Kind.INPUT
    return not plain and batch.size > 1


@rule("_cdist_forward")
def distances(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """x1 (..., p, m), x2 (..., r, m) -> (..., p, r): a sum, or the largest, of the powers of differences along m."""
    left, right = tracer.info(given.x1), tracer.info(given.x2)
    tracer.unify(left.dims[-1], right.dims[-1])
    if not (left.zero[-1] and right.zero[-1] and given.p > 0):
        tracer.inexact(left.dims[-1], Kind.SUM_NOT_ZERO)
    fresh = tracer.fixed(result.shape)
    dims = list(fresh)
    for info in (left, right):
        for dim, place in zip(reversed(info.dims[:-2]), range(result.dim() - 3, -1, -1), strict=False):
            if dim.size == result.shape[place]:
                if dims[place] is not fresh[place]:
                    tracer.unify(dims[place], dim)
                dims[place] = dim
    tracer.give(result, (*dims[:-2], left.dims[-2], right.dims[-2]), [False] * result.dim())


@rule("_grouped_mm")
def grouped_mm(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Tokens (n, k), sorted by expert, times the experts' weights (experts, k, m) -> (n, m); other forms are pinned."""
    left, right = tracer.info(given.self), tracer.info(given.mat2)
    positions = [tracer.dims(given.offs)] if given.offs is not None else []
    if (len(left.dims), len(right.dims)) != (2, 3) or given.bias is not None:
        for dim in (*left.dims, *right.dims):
            tracer.pin(dim, Kind.MIXED)
        tracer.give(result, tracer.fixed(result.shape), [False] * result.dim())
        return
    _roles(tracer, given.mat2, 1)
    tracer.pin(left.dims[0], Kind.ORDERED)
    for dim in (right.dims[0], *(dim for dims in positions for dim in dims)):
        tracer.pin(dim, Kind.NUMBERED)
    _contract(tracer, given.self, given.mat2, left.dims[1], right.dims[1], (1, 1))
    tracer.cost("macs", 1, (*left.dims, right.dims[2]))
    tracer.cost("activation_bytes", result.element_size(), (left.dims[0], right.dims[2]))
    tracer.give(result, (left.dims[0], right.dims[2]), [False, right.zero[2]])


@rule("_trilinear")
def trilinear(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """Three tensors, expanded to common dimensions, multiplied and summed over some: bilinear layers."""
    infos = [tracer.info(tensor) for tensor in (given.i1, given.i2, given.i3)]
    rank = len(infos[0].dims) + len(given.expand1)
    aligned: list[list[tuple[Dim, bool]]] = [[] for _ in range(rank)]
    for info, expanded in zip(infos, (given.expand1, given.expand2, given.expand3), strict=True):
        own = (place for place in range(rank) if place not in expanded)
        for place, dim, zero in zip(own, info.dims, info.zero, strict=True):
            aligned[place].append((dim, zero))
    for place, entries in enumerate(aligned):
        for dim, _ in entries:
            tracer.role(dim, "in" if place in given.sumdim else "out")
            tracer.unify(entries[0][0], dim)
        if place in given.sumdim and not any(zero for _, zero in entries):
            tracer.inexact(entries[0][0], Kind.SUM_NOT_ZERO)
    kept = [entries for place, entries in enumerate(aligned) if place not in given.sumdim]
    tracer.give(result, [entries[0][0] for entries in kept], [any(zero for _, zero in entries) for entries in kept])


@rule("mv", "addmv")
def mv(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """(m, k) x (k)."""
    a, addend = (given.self, False) if given.name == "mv" else (given.mat, True)
    left = tracer.info(a)
    _contract(tracer, a, given.vec, left.dims[1], tracer.dims(given.vec)[0], (1, 0))
    tracer.give(result, left.dims[:1], [False] if addend else left.zero[:1])


@rule("dot", "vdot")
def dot(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """(k) x (k)."""
    a, b = given.self, given.tensor if given.name == "dot" else given.other
    _contract(tracer, a, b, tracer.dims(a)[0], tracer.dims(b)[0], (0, 0))
    tracer.give(result, (), ())
