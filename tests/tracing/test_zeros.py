"""What stays zero, and what needs every channel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import ROW, Net
from proof import prove, sizes


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(1),
        lambda x: x.flip(1),
        lambda x: x.roll(1, 1),
        lambda x: x.sort(1)[0],
        lambda x: x.cumsum(1),
        lambda x: x[:, torch.arange(9, -1, -1)],
        lambda x: x[:, ::1].index_select(1, torch.arange(10)),
        lambda x: x.topk(10, 1)[0],
        lambda x: torch.fft.fft(x, dim=1).real,
        lambda x: torch.stack(x.unbind(1), 1),
    ],
)
def test_operations_that_need_every_channel_pin_them(function: Callable[[Tensor], Tensor]) -> None:
    net = Net(
        lambda net, x: net.out(function(net.a(x)).relu() + net.b(net.c(x).relu())),
        a=nn.Linear(6, 10),
        c=nn.Linear(6, 8),
        b=nn.Linear(8, 10),
        out=nn.Linear(10, 2),
    )
    structure = prove(net, ROW)
    assert sizes(structure) == {"c": 8}
    assert structure["a"].reason


def test_moments_over_channels_are_not_exact() -> None:
    net = Net(
        lambda net, x: net.out((y := net.a(x)) - y.mean(1, keepdim=True)), a=nn.Linear(6, 10), out=nn.Linear(10, 2)
    )
    structure = prove(net, ROW)
    assert sizes(structure) == {"a": 10}
    assert not structure["a"].exact
    assert "mean" in structure["a"].inexact_reason


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (torch.relu, True),
        (F.gelu, True),
        (torch.tanh, True),
        (F.hardswish, True),
        (lambda x: x.clamp(0, 1), True),
        (lambda x: x.clamp(0.5, 1), False),
        (lambda x: x.clamp_min(0.5), False),
        (torch.sigmoid, False),
        (torch.cos, False),
        (torch.exp, False),
        (F.softplus, False),
        (F.hardsigmoid, False),
        (lambda x: x + 1, False),
        (lambda x: 1 - x, False),
        (lambda x: x - 1, False),
        (lambda x: 2 * x, True),
        (lambda x: x / 3, True),
        (lambda x: x**2, True),
        (lambda x: x**0, False),
        (lambda x: x.masked_fill(x > 0, 3.0), False),
        (lambda x: torch.where(x > 0, x, torch.ones(())), False),
        (lambda x: torch.where(x > 0, x, -x), True),
        (lambda x: F.threshold(x, 0.1, 0.5), False),
        (lambda x: torch.maximum(x, torch.ones(())), False),
        (lambda x: x == 0, False),
        (lambda x: x.double().expm1(), True),
        (lambda x: torch.atan2(x, torch.ones(())), True),
        (lambda x: torch.nan_to_num(x), True),
        (lambda x: torch.addcmul(x, x, x), True),
        (lambda x: torch.lerp(x, torch.ones_like(x), 0.5), False),
        (lambda x: torch.logaddexp(x, x), False),
        (lambda x: torch.rsub(x, 1), False),
        (lambda x: F.elu(x), True),
        (lambda x: F.silu(x, inplace=True), True),
        (lambda x: x.add_(1), False),
        (lambda x: x.mul_(2).relu_(), True),
        (lambda x: x.fill_(1.0) * 2, False),
        (lambda x: torch.full_like(x, 1.0), False),
    ],
)
def test_zero_stays_zero_or_the_group_is_not_exact(function: Callable[[Tensor], Tensor], exact: bool) -> None:
    """The proof inside `prove` fails where a function is taken for one that keeps zero and does not."""
    net = Net(lambda net, x: net.out(function(net.a(x)).to(x.dtype)), a=nn.Linear(6, 10), out=nn.Linear(10, 2))
    structure = prove(net, ROW)
    assert structure["a"].prunable
    if exact:
        assert structure["a"].exact, structure["a"].inexact_reason
