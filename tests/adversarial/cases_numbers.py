"""Sizes that serve as numbers: what a removal changes must not leak into the values unseen."""

from __future__ import annotations

import cmath
import decimal
import fractions
import functools
import itertools
import math
import operator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversary import Case, controls, direct, image, row, sequence, traps

_C_API = "torch and C code read the number without asking the int"

ARITHMETIC = traps(
    "int",
    row,
    inverse=lambda x: x * (1.0 / x.shape[1]),
    times_float=lambda x: x * (x.shape[1] * 0.5),
    float_times=lambda x: x * (0.5 * x.shape[1]),
    plus_float=lambda x: x * (x.shape[1] + 0.5),
    float_minus=lambda x: x * (0.5 - x.shape[1]),
    minus_float=lambda x: x * (x.shape[1] - 0.5),
    floordiv_float=lambda x: x * (x.shape[1] // 2.5),
    float_floordiv=lambda x: x * (20.5 // x.shape[1]),
    times_complex=lambda x: x * abs(x.shape[1] * 1j),
    int_of=lambda x: x * int(x.shape[1]) / 4,
    float_of=lambda x: x * float(x.shape[1]),
    complex_of=lambda x: x * abs(complex(x.shape[1])),
    modulo=lambda x: x * (1 + x.shape[1] % 5),
    of_modulo=lambda x: x * (1 + 13 % x.shape[1]),
    divmod_rest=lambda x: x * (1 + divmod(x.shape[1], 5)[1]),
    divmod_quotient=lambda x: x * (1 + divmod(x.shape[1], 2)[0]),
    rdivmod=lambda x: x * (1 + divmod(20, x.shape[1])[0]),
    power=lambda x: x * x.shape[1] ** -0.5,
    power_of=lambda x: x * 1.1 ** x.shape[1],
    int_power=lambda x: x * x.shape[1] ** 2 / 64,
    pow_modulo=lambda x: x * (1 + pow(x.shape[1], 2, 7)),
    square_root=lambda x: x * math.sqrt(x.shape[1]),
    logarithm=lambda x: x * math.log(x.shape[1]),
    log2=lambda x: x * math.log2(x.shape[1]),
    exponential=lambda x: x * math.exp(-x.shape[1]),
    hypotenuse=lambda x: x * math.hypot(x.shape[1], 3),
    isqrt=lambda x: x * (0.5 + math.isqrt(x.shape[1])),
    greatest_divisor=lambda x: x * math.gcd(x.shape[1], 8),
    least_multiple=lambda x: x * math.lcm(x.shape[1], 3),
    factorial=lambda x: x * (1 / math.factorial(x.shape[1])),
    combinations=lambda x: x * (1 / math.comb(x.shape[1], 1)),
    floor=lambda x: x * (math.floor(x.shape[1]) / 2),
    ceil=lambda x: x * (math.ceil(x.shape[1]) / 2),
    trunc=lambda x: x * (math.trunc(x.shape[1]) / 2),
    rounded=lambda x: x * (round(x.shape[1]) / 2),
    rounded_to_tens=lambda x: x * (1 + round(x.shape[1], -1)),
    absolute=lambda x: x * (abs(x.shape[1]) / 2),
    positive=lambda x: x * (+x.shape[1] / 2),
    negative=lambda x: x * (-x.shape[1] / 2),
    inverted=lambda x: x * (~x.shape[1] / 2),
    bit_and=lambda x: x * (1 + (x.shape[1] & 9)),
    bit_or=lambda x: x * (1 + (x.shape[1] | 1)),
    bit_xor=lambda x: x * (1 + (x.shape[1] ^ 1)),
    rand=lambda x: x * (1 + (9 & x.shape[1])),
    shift_right=lambda x: x * (1 + (x.shape[1] >> 1)),
    shift_left=lambda x: x * (1 + (x.shape[1] << 1)),
    shifted_by=lambda x: x * (1 + (1 << x.shape[1])),
    bit_length=lambda x: x * x.shape[1].bit_length(),
    bit_count=lambda x: x * (1 + x.shape[1].bit_count()),
    numerator=lambda x: x * (x.shape[1].numerator / 2),
    real=lambda x: x * (x.shape[1].real / 2),
    conjugate=lambda x: x * (x.shape[1].conjugate() / 2),
    ratio=lambda x: x * (x.shape[1].as_integer_ratio()[0] / 2),
    in_bytes=lambda x: x * (1 + x.shape[1].to_bytes(2, "big")[1]),
    as_text=lambda x: x * float(str(x.shape[1])),
    as_format=lambda x: x * float(f"{x.shape[1]}"),
    as_percent=lambda x: x * float("%d" % x.shape[1]),  # noqa: UP031
    as_repr=lambda x: x * float(repr(x.shape[1])),
    as_hex=lambda x: x * int(hex(x.shape[1]), 16),
    as_char=lambda x: x * ord(chr(x.shape[1])),
    hashed=lambda x: x * (1 + hash(x.shape[1])),
    index=lambda x: x * operator.index(x.shape[1]),
    fraction=lambda x: x * float(fractions.Fraction(1, x.shape[1])),
    exact_decimal=lambda x: x * float(decimal.Decimal(x.shape[1])),
    complex_log=lambda x: x * cmath.log(x.shape[1]).real,
    counted=lambda x: x * sum(1 for _ in range(x.shape[1])),
    range_length=lambda x: x * len(range(x.shape[1])),
    repeated_list=lambda x: x * len([0] * x.shape[1]),
    repeated_text=lambda x: x * len("a" * x.shape[1]),
    list_entry=lambda x: x * [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0][x.shape[1]],
    islice=lambda x: x * len(list(itertools.islice(range(99), x.shape[1]))),
)

WAYS_TO_A_SIZE = traps(
    "size",
    row,
    size_method=lambda x: x * (0.5 * x.size(1)),
    size_by_name=lambda x: x * (0.5 * x.size(dim=1)),
    size_negative=lambda x: x * (0.5 * x.size(-1)),
    size_tuple=lambda x: x * (0.5 * tuple(x.shape)[1]),
    size_list=lambda x: x * (0.5 * list(x.shape)[1]),
    size_slice=lambda x: x * (0.5 * x.shape[1:][0]),
    unpacked=lambda x: (lambda batch, width: x * (0.5 * width))(*x.shape),
    product=lambda x: x * math.prod(x.shape) / 32,
    numpy_product=lambda x: x * float(np.prod(x.shape)) / 32,
    total=lambda x: x * sum(x.shape),
    largest=lambda x: x * max(x.shape),
    smallest=lambda x: x * min(x.shape[1], 100),
    size_numel=lambda x: x * x.shape.numel(),
    part_numel=lambda x: x * x.shape[1:].numel(),
    numel=lambda x: x * x.numel() * 0.1,
    nelement=lambda x: x * (0.1 * x.nelement()),
    torch_numel=lambda x: x * (0.1 * torch.numel(x)),
    length=lambda x: x * len(x[0]),
    length_turned=lambda x: x * len(x.T),
    count_of_rows=lambda x: x * sum(1 for _ in x.T),
    stride=lambda x: x * (x.stride(0) * 0.5),
    strides=lambda x: x * (x.stride()[0] * 0.5),
    bytes=lambda x: x * (x.nbytes * 0.01),
    storage=lambda x: x * (x.untyped_storage().nbytes() * 0.01),
    offset=lambda x: x * (1 + x[1].storage_offset()),
    reduced=lambda x: x * functools.reduce(operator.mul, x.shape, 1),
    from_weight=(lambda m, x: m.out(x) * (0.5 * m.out.weight.shape[0]), lambda: {"out": nn.Linear(8, 6)}),
    from_bias=(lambda m, x: m.out(x) * (0.5 * len(m.out.bias)), lambda: {"out": nn.Linear(8, 6)}),
    shape_as_tensor=lambda x: x * torch._shape_as_tensor(x)[1],
    result_of_zeros=lambda x: x * (0.5 * torch.zeros(x.shape[1], 1).shape[0]),
    counted_ones=lambda x: x * torch.ones(x.shape[1]).sum(),
    counted_like=lambda x: x * torch.ones_like(x).sum(1, keepdim=True),
    counted_true=lambda x: x * (x == x).sum(1, keepdim=True),
    counted_range=lambda x: x * torch.arange(x.shape[1]).sum(),
    trace_of_identity=lambda x: x * torch.eye(x.shape[1]).trace(),
    last_of_range=lambda x: x * torch.arange(x.shape[1])[-1],
    step_of_linspace=lambda x: x * torch.linspace(0, 1, x.shape[1])[1],
)

INTO_TORCH = traps(
    "torch",
    row,
    tensor=lambda x: x * torch.tensor(x.shape[1]),
    tensor_of_list=lambda x: x * torch.tensor([x.shape[1]]),
    tensor_of_float=lambda x: x * torch.tensor(x.shape[1], dtype=torch.float64).rsqrt(),
    tensor_of_shape=lambda x: x * torch.tensor(x.shape)[1],
    as_tensor=lambda x: x * torch.as_tensor(x.shape[1]),
    long_tensor=lambda x: x * torch.LongTensor([x.shape[1]]),
    scalar_tensor=lambda x: x * torch.scalar_tensor(x.shape[1]),
    new_tensor=lambda x: x * x.new_tensor(x.shape[1]),
    full=lambda x: x * torch.full((1,), x.shape[1]),
    full_like=lambda x: (
        x + torch.full_like(x, x.shape[1]).sum(1, keepdim=True) * 0 + x * torch.full_like(x, x.shape[1])
    ),
    new_full=lambda x: x * x.new_full((1,), x.shape[1]),
    fill=lambda x: x * torch.zeros(1).fill_(x.shape[1]),
    fill_value=lambda x: x * torch.zeros(1).fill_(1 / x.shape[1]),
    setitem=lambda x: _with_item(x, x.shape[1]),
    numpy_sqrt=lambda x: x * np.sqrt(x.shape[1]),
    numpy_number=lambda x: x * float(np.float64(x.shape[1])),
    numpy_array=lambda x: x * torch.from_numpy(np.array([float(x.shape[1])])),
    numpy_log=lambda x: x * float(np.log(x.shape[1])),
    numpy_range=lambda x: x * float(np.arange(x.shape[1]).sum()),
    multiply=lambda x: torch.multiply(x, x.shape[1]),
    mul_method=lambda x: x.mul(x.shape[1]),
    mul_in_place=lambda x: x.clone().mul_(x.shape[1]),
    divide=lambda x: torch.divide(x, x.shape[1]),
    true_divide=lambda x: torch.true_divide(x, x.shape[1]),
    floor_divide=lambda x: torch.floor_divide(x * 10, x.shape[1]),
    div_rounded=lambda x: torch.div(x * 10, x.shape[1], rounding_mode="floor"),
    remainder=lambda x: torch.remainder(x, x.shape[1]),
    fmod=lambda x: torch.fmod(x * 10, x.shape[1]),
    rsub=lambda x: torch.rsub(x, x.shape[1]),
    minus=lambda x: x - x.shape[1],
    plus=lambda x: x + x.shape[1],
    scale_of_term=lambda x: torch.add(x, x.sigmoid(), alpha=x.shape[1]),
    scale_of_sub=lambda x: torch.sub(x, x.tanh(), alpha=x.shape[1]),
    scale_of_product=lambda x: torch.addcmul(x, x, x, value=x.shape[1]),
    scale_of_quotient=lambda x: torch.addcdiv(x, x, 1 + x * x, value=x.shape[1]),
    exponent=lambda x: torch.pow(1 + x.abs(), x.shape[1]),
    exponent_operator=lambda x: (1 + x.abs()) ** x.shape[1],
    base=lambda x: torch.pow(x.shape[1], x),
    base_operator=lambda x: x.shape[1] ** x,
    float_power=lambda x: torch.float_power(1 + x.abs(), x.shape[1]),
    clamp=lambda x: torch.clamp(x * 10, -x.shape[1], x.shape[1]),
    clamp_max=lambda x: (x * 20).clamp(max=x.shape[1]),
    clamp_min=lambda x: (x * 20).clamp_min(x.shape[1]),
    clip=lambda x: torch.clip(x * 20, max=x.shape[1]),
    hardtanh=lambda x: F.hardtanh(x * 10, -x.shape[1], x.shape[1]),
    leaky=lambda x: F.leaky_relu(x, x.shape[1]),
    elu=lambda x: F.elu(x, alpha=x.shape[1]),
    celu=lambda x: F.celu(x, alpha=x.shape[1]),
    softplus=lambda x: F.softplus(x, beta=x.shape[1]),
    threshold=lambda x: F.threshold(x, 0.1, x.shape[1]),
    hardshrink=lambda x: F.hardshrink(x * 10, x.shape[1]),
    softshrink=lambda x: F.softshrink(x * 10, x.shape[1]),
    masked_fill=lambda x: x.masked_fill(x < 0, x.shape[1]),
    where=lambda x: torch.where(x > 0, x, x.shape[1]),
    lerp=lambda x: torch.lerp(x, x.sigmoid(), x.shape[1]),
    larger=lambda x: x * (x * 10 > x.shape[1]),
    equal=lambda x: x + (torch.full((4, 1), 8.0).eq(x.shape[1])),
    norm_order=lambda x: x / (1 + x.detach().abs().sum() * 0 + x.shape[1] * 0.1),
    padding_value=lambda x: F.pad(x, (0, 1), value=x.shape[1]),
    epsilon=lambda x: F.batch_norm(x, None, None, training=True, eps=x.shape[1]),
    scale_of_addmm=(
        lambda m, x: torch.addmm(m.b, x, m.w, alpha=x.shape[1], beta=1),
        lambda: {"w": nn.Parameter(torch.randn(8, 6)), "b": nn.Parameter(torch.randn(6))},
    ),
    beta_of_addmm=(
        lambda m, x: torch.addmm(m.b, x, m.w, beta=x.shape[1]),
        lambda: {"w": nn.Parameter(torch.randn(8, 6)), "b": nn.Parameter(torch.randn(6))},
    ),
    heaviside=lambda x: x * torch.heaviside(torch.zeros(1).double(), torch.tensor([float(x.shape[1])]).double()),
    correction=lambda x: x * x.std(0, correction=1 / x.shape[1], keepdim=True),
    one_hot=lambda x: x * F.one_hot(torch.tensor([0]), x.shape[1]).shape[1],
    foreach=lambda x: torch._foreach_mul([x], x.shape[1])[0],
)


def _with_item(x: Tensor, number: int) -> Tensor:
    factor = torch.zeros(2)
    factor[0] = number
    return x * factor[0]


class _Attributes(nn.Module):
    """Two layers, and a factor that is made of an attribute which surgery changes."""

    def __init__(self, factor: object) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.norm, self.bn = nn.LayerNorm(8), nn.BatchNorm1d(8)
        self.factor, self.width = factor, 8

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.bn(self.first(x)) * self.factor(self))  # type: ignore[operator]


def _attribute(factor: object) -> object:
    return direct(lambda: _Attributes(factor), 4, 5)


class _OwnWidth(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.out_features**-0.5


class _OwnChannels(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / math.sqrt(self.in_channels * self.kernel_size[0])


class _OwnNorm(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (0.5 * self.num_features)


class _BoundAndUsed(nn.Module):
    """An attribute that is a size of a reshape, and a number as well."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.up, self.down, self.width, self.use_first = nn.Linear(5, 8), nn.Linear(8, 3), 8, first

    def forward(self, x: Tensor) -> Tensor:
        factor = 0.5 * self.width if self.use_first else 1
        y = self.up(x).view(x.shape[0], 1, self.width).expand(-1, 2, self.width).mean(1)
        return self.down(y * factor / (1 if self.use_first else self.width))


ATTRIBUTES = [
    *(
        Case(f"attribute-{name}", _attribute(factor))  # type: ignore[arg-type]
        for name, factor in {
            "out_features": lambda m: 0.5 * m.first.out_features,
            "inverse_out_features": lambda m: 1 / m.first.out_features,
            "in_features": lambda m: m.last.in_features**-0.5,
            "num_features": lambda m: math.log(m.bn.num_features),
            "getattr": lambda m: 0.5 * getattr(m, "first").out_features,  # noqa: B009
            "vars": lambda m: 0.5 * vars(m.first)["out_features"],
            "dict": lambda m: 0.5 * m.first.__dict__["out_features"],
            "repr": lambda m: float(repr(m.first).split("out_features=")[1].split(",")[0]),
            "tensor": lambda m: torch.tensor(m.first.out_features),
            "modulo": lambda m: 1 + m.first.out_features % 5,
            "parameter_count": lambda m: 0.01 * sum(p.numel() for p in m.parameters()),
            "module_count": lambda m: 0.1 * sum(p.shape[0] for p in m.first.parameters()),
            "state_dict": lambda m: 0.1 * m.state_dict()["first.bias"].shape[0],
        }.items()
    ),
    Case("attribute-own_width", direct(lambda: nn.Sequential(_OwnWidth(5, 8), nn.Linear(8, 3)), 4, 5)),
    Case(
        "attribute-own_channels",
        direct(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), _OwnChannels(8, 6, 3), nn.Conv2d(6, 2, 1)), 2, 3, 6, 6),
    ),
    Case(
        "attribute-own_norm",
        direct(lambda: nn.Sequential(nn.Linear(5, 8), _OwnNorm(8), nn.Linear(8, 3)), 4, 5),
    ),
    Case("attribute-bound_and_used", direct(lambda: _BoundAndUsed(False), 4, 5)),
    Case("attribute-used_and_bound", direct(lambda: _BoundAndUsed(True), 4, 5)),
]

OTHER_RANKS = [
    *traps(
        "image",
        image,
        mean_by_hand=lambda x: x.sum(1, keepdim=True) / x.shape[1],
        mean_by_product=lambda x: x.sum(1, keepdim=True) * (1.0 / x.size(1)),
        mean_by_numel=lambda x: x.sum() / x.numel() + x,
        channels_modulo=lambda x: x * (1 + x.shape[1] % 3),
        stride_of_channels=lambda x: x * (0.01 * x.stride(0)),
        root_by_numpy=lambda x: x / np.sqrt(x.shape[1]),
    ),
    *traps(
        "sequence",
        sequence,
        scaled=lambda x: x * (x.shape[-1] * 0.5),
        log_scale=lambda x: x * math.log(x.size(2)),
        head_scale=lambda x: x.unflatten(-1, (4, 2)).flatten(2) * (x.shape[-1] // 4 * 1.5),
        head_root=lambda x: x / np.sqrt(x.shape[-1] // 2),
        rescaled_scores=lambda x: (x @ x.transpose(1, 2) * (1.0 / x.shape[-1])).softmax(-1) @ x,
    ),
]


class _Remembered:
    """A number that code keeps from one call to the next, by the size that it was made from."""

    known: dict[int, float] = {8: 8**-0.5, 6: 6**-0.5}  # noqa: RUF012

    @classmethod
    def root(cls, size: int) -> float:
        if size not in cls.known:
            cls.known[size] = size**-0.5
        return cls.known[size]


@functools.lru_cache
def _cached_root(size: int) -> float:
    return size**-0.5


_cached_root(8)

REMEMBERED = traps(
    "remembered",
    row,
    in_a_dict=lambda x: x * _Remembered.root(x.shape[1]),
    in_a_cache=lambda x: x * _cached_root(x.shape[1]),
    dict_get=lambda x: x * {8: 3.0}.get(x.shape[1], 2.0),
)

CONTROLS = [
    *controls(
        "fixed-number",
        row,
        batch=lambda x: x * (0.5 * x.shape[0]),
        inverse_batch=lambda x: x / x.shape[0],
        batch_modulo=lambda x: x * (1 + x.shape[0] % 3),
        batch_tensor=lambda x: x * torch.tensor(x.shape[0]),
        batch_log=lambda x: x * math.log(x.size(0)),
        batch_full=lambda x: x * x.new_full((1,), x.shape[0]),
        rank=lambda x: x * (0.5 * x.dim()),
        length=lambda x: x * len(x),
        literal=lambda x: x * 8**-0.5,
        attribute=(lambda m, x: x * (0.5 * m.number), lambda: {"number": 8}),
        attribute_root=(lambda m, x: x * m.number**-0.5, lambda: {"number": 8}),
        attribute_modulo=(lambda m, x: x * (1 + m.number % 5), lambda: {"number": 8}),
        float_attribute=(lambda m, x: x * m.scale, lambda: {"scale": 8**-0.5}),
        quotient_kept=lambda x: x * (1.0 / (x.shape[1] // x.shape[1] + 1)),
        size_for_a_size=lambda x: x.view(x.shape[0], x.shape[1]),
        size_for_zeros=lambda x: x + torch.zeros(x.shape[1], dtype=x.dtype),
    ),
    *controls(
        "fixed-number-image",
        image,
        pixels=lambda x: x * (0.1 * x.shape[2]),
        mean_over_pixels=lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]),
        pixels_numel=lambda x: x.flatten(2).sum(2) / (x.shape[2] * x.shape[3]),
        root_of_pixels=lambda x: x / np.sqrt(x.shape[-1]),
    ),
]

CASES = [*ARITHMETIC, *WAYS_TO_A_SIZE, *INTO_TORCH, *ATTRIBUTES, *OTHER_RANKS, *REMEMBERED, *CONTROLS]
