"""Element-wise operations: aligned dimensions of equal size are the same; size 1 against n is no coupling."""

from __future__ import annotations

from typing import Any

import torch

from icycle.axes import Axis, Dim
from icycle.reasons import Kind
from icycle.tracing._arguments import Arguments
from icycle.tracing._registry import rule
from icycle.tracing._tracer import Info, Tracer, flat_tensors

# f(0) = 0, so that what is zero stays zero
_ZERO_PRESERVING = frozenset(
    "abs alias asin asinh atan atanh ceil celu clone contiguous detach elu erf expm1 fix floor gelu hardswish "
    "leaky_relu relu6 lift lift_fresh log1p mish native_dropout neg nan_to_num prelu _prelu_kernel round relu rrelu "
    "rrelu_with_noise selu sgn sign silu sin sinh sqrt square tan tanh trunc _to_copy hardshrink softshrink "
    "dropout feature_dropout alpha_dropout positive real imag conj _conj conj_physical _fused_dropout".split()
)

# f(0) is not finite, and a zeroed weight does not silence it
_SINGULAR = frozenset(
    "log log2 log10 reciprocal rsqrt digamma lgamma mvlgamma polygamma logit acosh igamma igammac "
    "special_ndtri special_zeta special_bessel_y0 special_bessel_y1 "
    "special_modified_bessel_k0 special_modified_bessel_k1 "
    "special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1".split()
)


# beside what torch itself tags as pointwise
_UNTAGGED = (
    "add where clone _to_copy detach alias lift_fresh lift contiguous copy dropout native_dropout _fused_dropout "
    "feature_dropout alpha_dropout masked_fill fill zero prelu _prelu_kernel rrelu rrelu_with_noise positive hardtanh "
    "celu selu relu6 hardswish hardsigmoid gelu silu mish leaky_relu elu softplus log_sigmoid_forward logit nan_to_num "
    "bernoulli uniform normal exponential random zeros_like ones_like full_like rand_like randn_like empty_like"
).split()


@rule(*_UNTAGGED)
def elementwise(tracer: Tracer, given: Arguments, result: Any) -> None:
    """Broadcasting aligns dimensions from the last one."""
    infos = {name: tracer.info(tensor) for name, tensor in given.operands().items()}
    for out in flat_tensors(result):
        _relate(tracer, given, infos, out)


def _relate(tracer: Tracer, given: Arguments, infos: dict[str, Info], out: torch.Tensor) -> None:
    dims, zero = [], []
    rank = out.dim()
    for position in range(rank):
        size = out.shape[position]
        aligned: dict[str, tuple[Dim, bool]] = {}  # operands that are not broadcast along this dimension
        for name, info in infos.items():
            place = position - rank + len(info.dims)
            if place >= 0 and info.dims[place].size == size:
                aligned[name] = (info.dims[place], info.zero[place])
        if not aligned:
            dims.append(tracer.fixed([size])[0])
            zero.append(False)
            continue
        first, *others = (dim for dim, _ in aligned.values())
        for other in others:
            tracer.unify(first, other)
        dims.append(first)
        zeros = frozenset(name for name, (_, flag) in aligned.items() if flag)
        zero.append(_is_zero(given, zeros))
        if _is_singular(given, zeros):
            tracer.inexact(first, Kind.NOT_FINITE)
    if len(infos) > 1:
        _set_roles(tracer, given.name, infos)
    tracer.give(out, dims, zero)


def _is_singular(given: Arguments, zeros: frozenset[str]) -> bool:
    """Whether the result may be infinite or no number at removed elements, which no zero weight silences."""
    name = given.name
    if name in _SINGULAR:
        return bool(zeros)
    if name in _DIVISIONS:
        return "other" in zeros
    if name == "pow":
        exponent = given.exponent
        return "self" in zeros and (isinstance(exponent, (torch.Tensor, complex)) or exponent < 0)
    return name == "addcdiv" and "tensor2" in zeros


def _is_zero(given: Arguments, zeros: frozenset[str]) -> bool:
    """Whether the result is zero at removed elements; `zeros` are the operands that are (none that is broadcast)."""
    name = given.name

    def vanishes(operand: str) -> bool:
        value = given.get(operand)
        return operand in zeros or (isinstance(value, (int, float)) and value == 0)

    if name in ("zeros_like", "zero"):
        return True
    if name == "mul":
        return bool(zeros)
    if name in _DIVISIONS:
        return "self" in zeros and "other" not in zeros
    if name in _ALL_OF:
        return all(vanishes(operand) for operand in _ALL_OF[name])
    if name == "addcmul":
        return "self" in zeros and bool(zeros & {"tensor1", "tensor2"})
    if name == "addcdiv":
        return {"self", "tensor1"} <= zeros and "tensor2" not in zeros
    if name in _BOUNDS:
        return "self" in zeros and _bounds_hold_zero(*(given.get(bound) for bound in _BOUNDS[name]))
    if name == "masked_fill":
        return "self" in zeros and not isinstance(given.value, torch.Tensor) and given.value == 0
    if name == "pow":
        return "self" in zeros and not isinstance(given.exponent, (torch.Tensor, complex)) and given.exponent > 0
    return name in _ZERO_PRESERVING and bool(zeros & {"self", "input"})


_DIVISIONS = frozenset(("div", "true_divide", "floor_divide", "remainder", "fmod", "xlogy"))

# zero where all of these operands are
_ALL_OF = {
    **dict.fromkeys(("add", "sub", "rsub", "maximum", "minimum", "fmax", "fmin", "hypot", "where"), ("self", "other")),
    "lerp": ("self", "end"),
    "copy": ("src",),
}

# the names of the (lower, upper) bound
_BOUNDS = {
    **dict.fromkeys(("clamp", "clip"), ("min", "max")),
    "clamp_min": ("min", ""),
    "clamp_max": ("", "max"),
    "hardtanh": ("min_val", "max_val"),
}


def _bounds_hold_zero(low: Any, high: Any) -> bool:
    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
        return False
    return (low is None or low <= 0) and (high is None or high >= 0)


def _set_roles(tracer: Tracer, name: str, infos: dict[str, Info]) -> None:
    """Weights scale or shift what comes from the input; among themselves they make another weight, whose user says what
    part it plays."""
    if not any(info.depends_on_input for info in infos.values()):
        return
    for info in infos.values():
        for dim in info.dims:
            tracer.role(dim, "scale" if name in ("mul", "div") else "shift")


@rule("masked_scatter", "complex", "polar")
def unrelated(tracer: Tracer, given: Arguments, result: Any) -> None:
    """Operations that mix positions: all is pinned."""
    for tensor in given.operands().values():
        for dim in tracer.dims(tensor):
            tracer.pin(dim, Kind.MIXED)
    for out in flat_tensors(result):
        tracer.give(out, tracer.fixed(out.shape), [False] * out.dim())


@rule(
    "zeros", "ones", "full", "empty", "rand", "randn", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor"
)
@rule("arange", "linspace", "new_empty_strided", "empty_strided", "randint", "eye", "tril_indices", "triu_indices")
def factory(tracer: Tracer, given: Arguments, result: torch.Tensor) -> None:
    """A new tensor has the dimensions from which its sizes were read; what the code says literally is pinned."""
    name = given.name
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
