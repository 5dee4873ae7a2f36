"""Element-wise operations: aligned dimensions of equal size are the same; size 1 against n is no coupling."""

from __future__ import annotations

from typing import Any

import torch

from icycle.axes import Axis, Dim
from icycle.reasons import Kind
from icycle.tracing._registry import register
from icycle.tracing._tracer import Info, Tracer, flat_tensors

# f(0) = 0, so that what is zero stays zero
_ZERO_PRESERVING = frozenset(
    "abs alias asin asinh atan atanh ceil celu clone contiguous detach elu erf expm1 fix floor gelu hardswish "
    "leaky_relu lift lift_fresh log1p mish native_dropout neg nan_to_num prelu _prelu_kernel round relu rrelu "
    "rrelu_with_noise selu sgn sign silu sin sinh sqrt square tan tanh trunc _to_copy hardshrink softshrink "
    "dropout feature_dropout alpha_dropout positive real imag conj _conj conj_physical _fused_dropout tril triu".split()
)

# f(0) is not finite, and a zeroed weight does not silence it
_SINGULAR = frozenset(("log", "log2", "log10", "reciprocal", "rsqrt", "digamma", "lgamma", "logit"))


# beside what torch itself tags as pointwise
_UNTAGGED = (
    "add where clone _to_copy detach alias lift_fresh lift contiguous copy dropout native_dropout _fused_dropout "
    "feature_dropout alpha_dropout masked_fill fill zero prelu _prelu_kernel rrelu rrelu_with_noise positive hardtanh "
    "celu selu relu6 hardswish hardsigmoid gelu silu mish leaky_relu elu softplus log_sigmoid_forward logit nan_to_num "
    "bernoulli uniform normal exponential random zeros_like ones_like full_like rand_like randn_like empty_like tril "
    "triu"
).split()


@register(*_UNTAGGED)
def elementwise(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Broadcasting aligns dimensions from the last one."""
    infos = [tracer.info(tensor) for tensor in flat_tensors((args, kwargs))]
    name = operation.name().split("::")[1].split(".")[0].rstrip("_")
    for out in flat_tensors(result):
        _relate(tracer, name, args, infos, out)


def _relate(tracer: Tracer, name: str, args: Any, infos: list[Info], out: torch.Tensor) -> None:
    dims, zero = [], []
    rank = out.dim()
    for position in range(rank):
        size = out.shape[position]
        aligned = []
        for info in infos:
            place = position - rank + len(info.dims)
            present = place >= 0 and info.dims[place].size == size
            aligned.append((info.dims[place], info.zero[place]) if present else None)
        found = [entry for entry in aligned if entry is not None]
        if not found:
            dims.append(tracer.fixed([size])[0])
            zero.append(False)
            continue
        for entry in found[1:]:
            tracer.unify(found[0][0], entry[0])
        dims.append(found[0][0])
        zeros = [entry is not None and entry[1] for entry in aligned]
        zero.append(_is_zero(name, args, zeros))
        if (name in _SINGULAR and zeros[0]) or (name == "div" and any(zeros[1:])):
            tracer.inexact(found[0][0], Kind.NOT_FINITE)
    if len(infos) > 1:
        _set_roles(tracer, name, infos)
    tracer.give(out, dims, zero)


def _is_zero(name: str, args: Any, zeros: list[bool]) -> bool:
    """Whether the result is zero at removed elements, given which operands are (False too where one is broadcast)."""
    numbers = [value for value in args if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if name in ("zeros_like", "zero"):
        return True
    if name == "mul":
        return any(zeros)
    if name in ("div", "true_divide"):
        return zeros[0] and isinstance(args[0], torch.Tensor)
    if name in ("add", "sub"):
        return all(zeros) and not any(numbers[:1])
    if name in ("where", "maximum", "minimum", "lerp", "fmax", "fmin", "hypot", "copy"):
        return all(zeros[-1:] if name == "copy" else zeros[1:] if name == "where" else zeros)
    if name in ("addcmul", "addcdiv"):
        return zeros[0] and any(zeros[1:])
    if name in ("clamp", "clamp_min", "clamp_max", "hardtanh", "relu6"):
        return zeros[0] and _clamp_keeps_zero(name, args)
    if name == "masked_fill":
        return zeros[0] and args[2] == 0 if not isinstance(args[2], torch.Tensor) else False
    if name == "pow":
        return zeros[0] and bool(numbers) and isinstance(args[0], torch.Tensor) and numbers[-1] > 0
    return name in _ZERO_PRESERVING and zeros[0]


def _clamp_keeps_zero(name: str, args: Any) -> bool:
    bounds = [value for value in args[1:] if value is not None]
    if any(isinstance(bound, torch.Tensor) for bound in bounds):
        return False
    if name == "clamp_min":
        return bounds[0] <= 0
    if name == "clamp_max":
        return bounds[0] >= 0
    low = args[1] if len(args) > 1 and args[1] is not None else (0 if name == "relu6" else -1)
    high = args[2] if len(args) > 2 and args[2] is not None else 1
    return low <= 0 <= high


def _set_roles(tracer: Tracer, name: str, infos: list[Info]) -> None:
    for info in infos:
        for dim in info.dims:
            tracer.role(dim, "scale" if name in ("mul", "div") else "shift")


@register("masked_scatter", "view_as_real", "view_as_complex", "complex", "polar")
def unrelated(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Operations that mix positions: all is pinned."""
    for tensor in flat_tensors((args, kwargs)):
        for dim in tracer.dims(tensor):
            tracer.pin(dim, Kind.MIXED)
    for out in flat_tensors(result):
        tracer.give(out, tracer.fixed(out.shape), [False] * out.dim())


@register(
    "zeros", "ones", "full", "empty", "rand", "randn", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor"
)
@register("arange", "linspace", "new_empty_strided", "empty_strided", "randint", "eye", "tril_indices", "triu_indices")
def factory(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: torch.Tensor) -> None:
    """A new tensor has the dimensions from which its sizes were read; what the code says literally is pinned."""
    name = operation.name().split("::")[1].split(".")[0]
    dims = tracer.fixed(result.shape, Kind.NEW)
    call = tracer.call
    if call is not None and call.name == name and name in _UNIFORM:
        sizes = call.variadic(1 if name.startswith("new_") else 0, "size")
        if [int(size) for size in sizes] == list(result.shape):
            dims = tuple(_sized(tracer, size) for size in sizes)
    elif call is not None and name in _UNIFORM:  # torch's own code reads its sizes from what it then combines this with
        dims = tuple(Axis(size) for size in result.shape)
    tracer.give(result, dims, [name.endswith("zeros")] * result.dim())


_UNIFORM = {"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"}


def _sized(tracer: Tracer, size: Any) -> Dim:
    dim = Axis(int(size))
    tracer.constrain(size, dim)
    return dim
