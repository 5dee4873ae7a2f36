"""Branches on sizes, and code that an edit does not reach: what runs is not what the rules read."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversary import Case, case, controls, direct, image, row, sequence, traps

BRANCHES = (
    traps(
        "branch",
        row,
        equal=lambda x: x if x.shape[1] == 8 else 2 * x,
        unequal=lambda x: 2 * x if x.shape[1] != 8 else x,
        larger=lambda x: x if x.shape[1] > 7 else 2 * x,
        at_least=lambda x: x if x.shape[1] >= 8 else 2 * x,
        less=lambda x: 2 * x if x.shape[1] < 8 else x,
        at_most=lambda x: 2 * x if 7 >= x.shape[1] else x,  # noqa: SIM300
        chained=lambda x: x if 4 < x.shape[1] < 9 else 2 * x,
        even=lambda x: x if x.shape[1] % 8 == 0 else 2 * x,
        truth=lambda x: 2 * x if x.shape[1] - 8 else x,
        negated=lambda x: x if not (x.shape[1] - 8) else 2 * x,
        quotient=lambda x: x if x.shape[1] // 8 else 2 * x,
        member=lambda x: x if x.shape[1] in (8, 16) else 2 * x,
        member_of_set=lambda x: x if x.shape[1] in {8, 16} else 2 * x,
        not_member=lambda x: 2 * x if x.shape[1] not in [8, 16] else x,
        key=lambda x: {8: lambda t: t}.get(x.shape[1], lambda t: 2 * t)(x),
        shapes=lambda x: x if x.shape == (4, 8) else 2 * x,
        shape_tuple=lambda x: x if tuple(x.shape) == (4, 8) else 2 * x,
        shape_size=lambda x: x if x.shape == torch.Size([4, 8]) else 2 * x,
        shape_tail=lambda x: x if x.shape[1:] == (8,) else 2 * x,
        shape_list=lambda x: x if list(x.shape) == [4, 8] else 2 * x,
        shape_order=lambda x: x if x.shape >= (4, 8) else 2 * x,
        shape_contains=lambda x: x if 8 in x.shape else 2 * x,
        shape_index=lambda x: x * (1 + x.shape.index(8)) if x.shape.count(8) else 3 * x,
        smaller_of=lambda x: x * min(x.shape[1], 6),
        larger_of=lambda x: x * max(x.shape[1], 6),
        clamped=lambda x: x * max(2, min(x.shape[1], 7)),
        loop=lambda x: functools.reduce(lambda t, _: t * 1.1, range(x.shape[1]), x),
        loop_of_half=lambda x: functools.reduce(lambda t, _: t * 1.1, range(x.shape[1] // 2), x),
        numel=lambda x: x if x.numel() > 20 else 2 * x,
        length=lambda x: x if len(x[0]) > 7 else 2 * x,
        length_of_list=lambda x: x if len(x.unbind(1)) > 7 else 2 * x,
        any_of=lambda x: x if any(n > 7 for n in x.shape) else 2 * x,
        sorted_sizes=lambda x: x if sorted(x.shape)[-1] > 7 else 2 * x,
        text=lambda x: x if str(x.shape[1]) == "8" else 2 * x,
        text_of_shape=lambda x: x if "8" in str(x.shape) else 2 * x,
        matched=lambda x: _matched(x),
        while_wide=lambda x: _while_wide(x),
        weight_size=(lambda m, x: m.l(x) if m.l.weight.shape[0] > 5 else 2 * m.l(x), lambda: {"l": nn.Linear(8, 6)}),
        features=(lambda m, x: m.l(x) if m.l.out_features > 5 else 2 * m.l(x), lambda: {"l": nn.Linear(8, 6)}),
        two_widths=(
            lambda m, x: m.a(x) + m.b(x) if m.a(x).shape == m.b(x).shape else m.a(x),
            lambda: {"a": nn.Linear(8, 6), "b": nn.Linear(8, 6)},
        ),
        two_widths_summed=(
            lambda m, x: m.a(x).exp().mean(1) if m.a(x).shape == m.b(x).shape else m.b(x).sum(1),
            lambda: {"a": nn.Linear(8, 6), "b": nn.Linear(8, 6)},
        ),
        two_numbers=(
            lambda m, x: m.a(x).sum(1) if m.a(x).shape[1] >= m.b(x).shape[1] else m.b(x).sum(1),
            lambda: {"a": nn.Linear(8, 6), "b": nn.Linear(8, 6)},
        ),
        same_size=(
            lambda m, x: m.a(x).sum(1) if m.a(x).is_same_size(m.b(x)) else m.b(x).sum(1),
            lambda: {"a": nn.Linear(8, 6), "b": nn.Linear(8, 6)},
        ),
        attempt=(
            lambda m, x: _attempt(lambda: m.a(x) + m.b(x), lambda: m.a(x)),
            lambda: {"a": nn.Linear(8, 6), "b": nn.Linear(8, 6)},
        ),
        attempted_view=lambda x: _attempt(lambda: x.view(4, 2, 4).flatten(1), lambda: 2 * x),
        asserted=lambda x: _asserted(x),
        broadcast=lambda x: x * len(torch.broadcast_shapes(x.shape, (1, 8))),
        value=lambda x: x if x.sum() > -1e9 else 2 * x,
        value_item=lambda x: x * x.detach().sum().item(),
        value_equal=lambda x: x if torch.equal(x, x) else 2 * x,
        value_list=lambda x: x * len([v for v in x[0].tolist() if v == v]),
    )
    + traps(
        "branch-image",
        image,
        residual=(lambda m, x: x + m.c(x) if x.shape == m.c(x).shape else m.c(x), lambda: {"c": nn.Conv2d(8, 8, 1)}),
        residual_strided=(
            lambda m, x: x + m.c(x) if x.shape[1] == m.c(x).shape[1] else m.c(x),
            lambda: {"c": nn.Conv2d(8, 8, 3, padding=1)},
        ),
        depthwise_buffer=(
            lambda m, x: F.conv2d(x, m.k, groups=8 if x.shape[1] == 8 else 1),
            lambda: {"k": nn.Parameter(torch.randn(8, 1, 3, 3))},
        ),
        depthwise_literal=lambda x: F.conv2d(x, torch.ones(8, 1, 3, 3).double(), groups=8),
        depthwise_constant=lambda x: F.conv2d(x, _BLUR, groups=_BLUR.shape[0]),
        depthwise_cut=lambda x: F.conv2d(x, _BLUR[: x.shape[1]], groups=x.shape[1]),
        depthwise_one=lambda x: F.conv2d(x, _BLUR[:1].repeat(x.size(1), 1, 1, 1), groups=x.size(1)),
    )
)

_BLUR = torch.arange(1, 9).double()[:, None, None, None].expand(8, 1, 3, 3) / 9


def _matched(x: Tensor) -> Tensor:
    match x.shape[1]:
        case 8:
            return x
        case _:
            return 2 * x


def _while_wide(x: Tensor) -> Tensor:
    width = x.shape[1]
    while width > 2:
        width = width // 2
        x = x * 1.5
    return x


def _attempt(first: Callable[[], Tensor], second: Callable[[], Tensor]) -> Tensor:
    try:
        return first()
    except RuntimeError:
        return second()


def _asserted(x: Tensor) -> Tensor:
    assert x.shape[1] == 8
    return x


class _Asserting(nn.Module):
    """What many models do: the width of the input is compared with an attribute."""

    def __init__(self, sure: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.last, self.channels, self.sure = nn.Linear(5, 8), nn.Linear(8, 3), 8, sure

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        self.sure(self, y)
        return self.last(y)


def _sure(module: Any, y: Tensor) -> None:
    assert y.shape[1] == module.channels


def _sure_of_layer(module: Any, y: Tensor) -> None:
    assert y.shape[-1] == module.last.in_features


def _refuse(module: Any, y: Tensor) -> None:
    if y.size(1) != module.channels:
        raise ValueError("wrong width")


ASSERTIONS = [
    case(f"assertion-{name}", direct(lambda sure=sure: _Asserting(sure), 4, 5))
    for name, sure in {"attribute": _sure, "layer": _sure_of_layer, "refusal": _refuse}.items()
]

# ---- attention whose code must be edited, reached in every way that code can be reached ----


def _attend(module: Any, x: Tensor) -> Tensor:
    """Self-attention that takes the width of a head from the input, as many models do."""
    batch, n, width = x.shape
    q, k, v = module.qkv(x).reshape(batch, n, 3, module.heads, -1).permute(2, 0, 3, 1, 4)
    scores = (q * (width // module.heads) ** -0.5) @ k.transpose(-2, -1)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _alias_of(function: Any) -> Any:
    return function


def _decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


_TABLE = {"eager": _attend}
_other_name = _attend
_wrapped = _decorated(_attend)
_partial = functools.partial(_attend)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.prepare()

    def prepare(self) -> None:
        pass


class _Direct(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        batch, n, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, n, width))


class _ByName(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_attend(self, x))


class _ByAttribute(_Attention):
    def prepare(self) -> None:
        self.attend = _attend

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(self, x))


class _ByTable(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_TABLE["eager"](self, x))


class _ByTableVariable(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        attend = _attend
        attend = _TABLE.get("eager", attend)
        return self.proj(attend(self, x))


class _ByOtherName(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_other_name(self, x))


class _ByDecorator(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_wrapped(self, x))


class _ByPartial(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_partial(self, x))


class _ByInstance(_Attention):
    def prepare(self) -> None:
        self.forward = types.MethodType(_patched, self)


def _patched(self: Any, x: Tensor) -> Tensor:
    return self.proj(_attend(self, x))


class _ByClassAttribute(_Attention):
    forward = _patched


class _ByDecoratedForward(_Attention):
    @_decorated
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_attend(self, x))


class _ByStatic(_Attention):
    @staticmethod
    def attend(module: Any, x: Tensor) -> Tensor:
        batch, n, width = x.shape
        q, k, v = module.qkv(x).reshape(batch, n, 3, module.heads, width // module.heads).permute(2, 0, 3, 1, 4)
        return (q @ k.transpose(-2, -1)).softmax(-1).matmul(v).transpose(1, 2).reshape(batch, n, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(self, x))


class _ByMethod(_Attention):
    def attend(self, x: Tensor) -> Tensor:
        return _attend(self, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(x))


class _BySuper(_Direct):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class _ByCallable(_Attention):
    def prepare(self) -> None:
        self.attend = _Callable()

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(self, x))


class _Callable:
    def __call__(self, module: Any, x: Tensor) -> Tensor:
        return _attend(module, x)


class _ByNested(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        def attend(y: Tensor) -> Tensor:
            batch, n, width = y.shape
            q, k, v = self.qkv(y).reshape(batch, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(batch, n, width)

        return self.proj(attend(x))


class _ByLambda(_Attention):
    def prepare(self) -> None:
        self.attend = lambda x: _attend(self, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(x))


class _ByForwardCall(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_Helper.forward(self, x))  # type: ignore[arg-type]


class _Helper(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _attend(self, x)


class _ByProperty(_Attention):
    @property
    def function(self) -> Any:
        return _attend

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.function(self, x))


class _Conditional(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj((_attend if self.heads else _Callable())(self, x))


def call_with(module: Any, x: Tensor) -> Tensor:
    """Called as the engine's own function is."""
    return _attend(module, x)


class _ByCallWith(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(call_with(self, x))


class _Twice(_Attention):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(_attend(self, x) + _attend(self, x.flip(1)))


class _Fused(_Attention):
    def prepare(self) -> None:
        self.attend = F.scaled_dot_product_attention

    def forward(self, x: Tensor) -> Tensor:
        batch, n, width = x.shape
        q, k, v = self.qkv(x).view(batch, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(batch, n, width))


class _Counter(_Attention):
    """A counter in the module's globals must go on counting in the code that was edited."""

    def forward(self, x: Tensor) -> Tensor:
        global _calls
        _calls += 1
        return self.proj(_attend(self, x))


_calls = 0

_WAYS = (
    _Direct, _ByName, _ByAttribute, _ByTable, _ByTableVariable, _ByOtherName, _ByDecorator, _ByPartial, _ByInstance,
    _ByClassAttribute, _ByDecoratedForward, _ByStatic, _ByMethod, _BySuper, _ByCallable, _ByNested, _ByLambda,
    _ByForwardCall, _ByProperty, _Conditional, _ByCallWith, _Twice, _Fused, _Counter,
)  # fmt: skip


class _Around(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.first, self.attention, self.last = nn.Linear(5, 8), kind(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y + self.attention(y))


ATTENTION = [
    case(f"reached-{kind.__name__.strip('_')}", direct(lambda kind=kind: _Around(kind), 2, 6, 5)) for kind in _WAYS
]


class _Hooked(nn.Module):
    """A hook that is no observer: it changes what the layer gives."""

    def __init__(self, hook: Any, before: bool = False) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(5, 8), nn.Identity()
        if before:
            self.middle.register_forward_pre_hook(hook)
        else:
            self.first.register_forward_hook(hook)

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self.first(x)).sum(1)


HOOKS = [
    case("hook-adds", direct(lambda: _Hooked(lambda m, a, out: out + 1), 4, 5)),
    case("hook-scales", direct(lambda: _Hooked(lambda m, a, out: out / out.shape[1]), 4, 5)),
    case("hook-sorts", direct(lambda: _Hooked(lambda m, a, out: out.cumsum(1)), 4, 5)),
    case("hook-writes", direct(lambda: _Hooked(lambda m, a, out: (out.add_(1), None)[1]), 4, 5)),
    case("hook-before", direct(lambda: _Hooked(lambda m, a: (a[0].cos(),), True), 4, 5)),
    case("hook-watches", direct(lambda: _Hooked(lambda m, a, out: None), 4, 5), "first"),
]

# ---- sizes that are equal by chance, or computed in a way that only holds whole ----

EQUAL = traps(
    "reshape",
    sequence,
    product=lambda x: x.reshape(x.shape[0], x.shape[1] * x.shape[2]).roll(1, 1),
    heads=lambda x: x.view(2, 6, 4, x.shape[2] // 4).flatten(2),
    heads_rest=lambda x: x.view(2, 6, x.shape[2] // 2, 2).transpose(2, 3).reshape(2, 6, -1),
    half_up=lambda x: x[..., : (x.shape[2] + 1) // 2],
    minus_two=lambda x: x[..., : x.shape[2] - 2],
    from_two=lambda x: x[..., 2 : x.shape[2]],
    doubled=lambda x: torch.cat([x, x], 2)[..., : 2 * x.shape[2]].view(2, 6, x.shape[2] * 2),
    literal_head=lambda x: x.view(2, 6, -1, 4).sum(2),
    literal_heads=lambda x: x.view(2, 6, 2, -1).sum(2),
    expand=lambda x: x[..., :1].expand(2, 6, x.shape[2]).cumsum(2),
    zeros=lambda x: torch.cat([x, torch.zeros(2, 6, x.shape[2] // 2).double()], 2),
    ones=lambda x: torch.cat([x, torch.ones(2, 6, x.shape[2] // 2).double()], 2),
    padded_to_ten=lambda x: F.pad(x, (0, 10 - x.shape[2])),
    padded_even=lambda x: F.pad(x, (0, -x.shape[2] % 3)),
    tiled=lambda x: x.repeat(1, 1, 16 // x.shape[2]),
    repeated=lambda x: x.repeat(1, 1, x.shape[2] // 4),
    positions=lambda x: x + torch.arange(x.shape[2]).double()[None, None],
    group_norm=lambda x: F.group_norm(x.transpose(1, 2), 4).transpose(1, 2),
    group_norm_by_size=lambda x: F.group_norm(x.transpose(1, 2), x.shape[2] // 2).transpose(1, 2),
    layer_norm=lambda x: F.layer_norm(x, (x.shape[2],)),
    layer_norm_all=lambda x: F.layer_norm(x, x.shape[1:]),
    rms=lambda x: x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt(),
    unflatten=lambda x: x.unflatten(2, (x.shape[2] // 2, 2)).flatten(2),
    windows=lambda x: x.view(2, 3, 2, x.shape[-1]).mean(2),
    merged=lambda x: x.view(2, 3, 2 * x.shape[-1]),
    einsum=lambda x: torch.einsum("bnc,bmc->bnm", x, x).softmax(-1) @ x,
)

KEPT = [
    *controls(
        "no-branch",
        row,
        rank=lambda x: x if x.dim() == 2 else 2 * x,
        batch=lambda x: x if x.shape[0] == 4 else 2 * x,
        batch_truth=lambda x: x if x.shape[0] else 2 * x,
        training=(lambda m, x: 2 * x if m.training else x, dict),
        attribute=(lambda m, x: x if m.n > 3 else 2 * x, lambda: {"n": 8}),
        loop_of_batch=lambda x: functools.reduce(lambda t, _: t * 1.1, range(x.shape[0]), x),
        dtype=lambda x: x if x.dtype == torch.float64 else 2 * x,
        attribute_loop=(lambda m, x: functools.reduce(lambda t, _: t * 1.1, range(m.n), x), lambda: {"n": 3}),
        text=lambda x: x if str(x.dtype) else 2 * x,
        root=(lambda m, x: x / math.sqrt(m.n), lambda: {"n": 8}),
    ),
    *controls(
        "no-branch-image",
        image,
        pixels=lambda x: x if x.shape[2] == x.shape[3] else 2 * x,
        pixels_even=lambda x: x if x.shape[-1] % 2 == 0 else 2 * x,
        pixel_sizes=lambda x: x if x.shape[2:] == (6, 6) else 2 * x,
        padded=lambda x: F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4)),
    ),
    *controls(
        "reshape-kept",
        sequence,
        flat=lambda x: x.reshape(x.shape[0], -1, x.shape[2]),
        by_size=lambda x: x.view(x.size(0), x.size(1), x.size(2)),
        halves=lambda x: torch.cat(x.chunk(2, -1)[::-1], -1),
        joined=lambda x: x.flatten(1),
        merged=lambda x: x.view(2, 3, 2 * x.shape[-1]),
        turned=lambda x: x.transpose(1, 2).reshape(x.shape[0], x.shape[2], x.shape[1]).mT,
    ),
]

CASES: list[Case] = [*BRANCHES, *ASSERTIONS, *ATTENTION, *HOOKS, *EQUAL, *KEPT]
