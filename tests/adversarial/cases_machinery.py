"""Machinery around a network's arithmetic: functions that transform functions, and results that are kept."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from adversary import Case, direct, linears, parameter, row, traps

# ---- functions that transform functions ----

TRANSFORMS = traps(
    "transform",
    row,
    vmap=(lambda m, x: torch.vmap(lambda t: m.w @ t)(x), lambda: {"w": parameter(6, 8)}),
    vmap_sum=(lambda m, x: torch.vmap(lambda t: (m.w @ t).exp().sum())(x), lambda: {"w": parameter(6, 8)}),
    vmap_channels=lambda x: torch.vmap(lambda t: t - t.mean(), in_dims=1, out_dims=1)(x),
    vmap_over_channels=lambda x: torch.vmap(torch.exp, in_dims=1, out_dims=1)(x),
    vmap_number=lambda x: torch.vmap(lambda t: t / t.shape[0])(x),
    vmap_norm=lambda x: torch.vmap(lambda t: F.softmax(t, 0))(x),
    vmap_convolution=(
        lambda m, x: torch.vmap(lambda t, s: F.conv1d(t.view(1, 2, -1), m.w * s, groups=2))(x, x[:, 0]).flatten(1),
        lambda: {"w": parameter(4, 1, 1)},
    ),
    vmap_linear=(
        lambda m, x: torch.vmap(lambda t, s: F.linear(t[None], m.w * s))(x, x[:, 0])[:, 0].exp(),
        lambda: {"w": parameter(6, 8)},
    ),
    vmap_expand=lambda x: torch.vmap(lambda t: t[:, None].expand(-1, 3).sum(1))(x),
    vmap_rows=lambda x: torch.vmap(lambda t: t[:1, : t.shape[1] // 2])(x.view(2, 2, -1)).flatten(1),
    vmap_twice=lambda x: torch.vmap(torch.vmap(lambda t: t / t.shape[0]))(x[:, None])[:, 0],
    vmap_view=lambda x: torch.vmap(lambda t: t.view(2, -1).sum(0))(x),
    vmap_models=(
        lambda m, x: torch.vmap(lambda w, b: F.linear(x, w, b))(m.w, m.b).mean(0),
        lambda: {"w": parameter(3, 6, 8), "b": parameter(3, 6)},
    ),
    functional_call=(
        lambda m, x: torch.func.functional_call(m.l, {"weight": m.w, "bias": m.b}, (x,)),
        lambda: {"l": nn.Linear(8, 6), "w": parameter(6, 8), "b": parameter(6)},
    ),
    functional_computed=(
        lambda m, x: torch.func.functional_call(m.l, {"weight": m.l.weight.exp()}, (x.sigmoid(),)),
        linears(l=(8, 6)),
    ),
    derivative=lambda x: torch.func.grad(lambda t: t.square().sum())(x),
    jacobian=lambda x: torch.vmap(torch.func.jacrev(lambda t: t.sin().sum()))(x),
    energy=(
        lambda m, x: _gradient(lambda t: m.b(m.a(t).tanh()).sum(), x),
        linears(a=(8, 5), b=(5, 1)),
    ),
    condition=lambda x: torch.cond(x.sum() > 0, lambda t: t * 2, lambda t: t + 1, (x,)),
    checkpointed=(
        lambda m, x: checkpoint(lambda t: m.b(m.a(t).sigmoid()), x, use_reentrant=False),
        linears(a=(8, 5), b=(5, 6)),
    ),
    checkpointed_row=(
        lambda m, x: checkpoint_sequential(m.s, 2, x, use_reentrant=False),
        lambda: {"s": nn.Sequential(nn.Linear(8, 5), nn.Sigmoid(), nn.Linear(5, 6))},
    ),
    mapped=lambda x: torch.stack(list(map(torch.cumsum, x.unbind(0), [0] * 4))),
    own_function=lambda x: _Twice.apply(x).exp(),
    own_function_shifted=lambda x: _Shifted.apply(x).sum(1),
    straight_through=lambda x: x + (x.round() - x).detach() + 0.1,
    inference=lambda x: _in_inference(x),
    no_gradient=(lambda m, x: _without_gradient(m.l, x), linears(l=(8, 6))),
)


def _gradient(function: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        t = x.detach().requires_grad_()
        return torch.autograd.grad(function(t), t)[0]


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * 2 + 0 * context.saved_tensors[0]


class _Shifted(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x + x.shape[1]

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def _in_inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = x.sigmoid().sum(1, keepdim=True)
    return x * y.clone()


@torch.no_grad()
def _without_gradient(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x).sigmoid()


# ---- results that are kept ----


@functools.lru_cache
def _places(width: int) -> Tensor:
    return torch.arange(width).double() / width


@functools.cache
def _mask(shape: torch.Size) -> Tensor:
    return torch.ones(shape).double().tril()


@functools.lru_cache(maxsize=2)
def _root(width: int) -> float:
    return width**0.5


@functools.lru_cache
def _half(width: int) -> int:
    return width // 2


class _Keeps(nn.Module):
    """Between two layers: something that is computed once and kept."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.last, self.width = nn.Linear(5, 8), nn.Linear(8, 3), 8
        self.way, self.kept, self.table = way, None, {}

    @functools.cached_property
    def ones(self) -> Tensor:
        return torch.ones(self.first.weight.shape[0]).double() * 2

    @functools.lru_cache  # noqa: B019
    def method(self) -> Tensor:
        return torch.ones(self.width).double() * 2

    @functools.lru_cache  # noqa: B019
    def of(self, width: int) -> Tensor:
        return torch.ones(width).double() * 2

    @staticmethod
    @functools.lru_cache
    def static(width: int) -> Tensor:
        return torch.ones(width).double() * 2

    def attribute(self, y: Tensor) -> Tensor:
        if self.kept is None or self.kept.shape[0] != y.shape[1]:
            self.kept = torch.ones(y.shape[1]).double() * 3
        return self.kept

    def stale(self, y: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.ones(y.shape[1]).double() * 3
        return self.kept

    def in_table(self, y: Tensor) -> Tensor:
        return self.table.setdefault("ones", torch.ones(y.shape[1]).double() * 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.way == "places":
            return self.last(y * _places(y.shape[1]))
        if self.way == "mask":
            return self.last(y * _mask(y.shape))
        if self.way == "root":
            return self.last(y / _root(y.shape[1]))
        if self.way == "half":
            return self.last(torch.cat([y[:, _half(y.shape[1]) :], y[:, : _half(y.shape[1])]], 1))
        if self.way == "ones":
            return self.last(y * self.ones)
        if self.way == "method":
            return self.last(y * self.method())
        if self.way in ("of", "static"):
            return self.last(y * getattr(self, self.way)(y.shape[1]))
        return self.last(y * getattr(self, self.way)(y))


def _run_before(way: str) -> Any:
    """The model has run, and has kept what it keeps, before it is traced."""

    def make() -> nn.Module:
        model = _Keeps(way).double()
        model(torch.randn(4, 5).double())
        return model

    return make


_WAYS = ("places", "mask", "root", "half", "ones", "method", "of", "static", "attribute", "stale", "in_table")
KEPT = [
    *(Case(f"kept-{way}", direct(lambda way=way: _Keeps(way), 4, 5)) for way in _WAYS),
    *(Case(f"kept-before-{way}", direct(_run_before(way), 4, 5)) for way in _WAYS),
]


CASES: list[Case] = [*TRANSFORMS, *KEPT]
