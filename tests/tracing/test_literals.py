"""Sizes that the code writes down."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from cases import IMAGE, ROW, Net, conv
from proof import prove, sizes


def test_a_literal_size_pins_and_the_reason_says_where() -> None:
    class Literal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Linear(6, 12), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x).view(-1, 3, 4).relu().flatten(1))

    structure = prove(nn.Sequential(nn.Identity(), Literal()), ROW)
    assert not structure.prunable
    assert re.search(r"aten::view at 1 \(test_literals\.py:\d+\)", structure["1.a"].reason)


def test_a_literal_for_one_factor_leaves_the_other() -> None:
    net = Net(
        lambda net, x: net.out(net.a(x).view(-1, 3, net.width).relu().flatten(1)),
        a=nn.Linear(6, 12),
        out=nn.Linear(12, 2),
        width=4,
    )
    assert sizes(prove(net, ROW)) == {"a": 4}


def test_a_literal_cut_pins_what_lies_before_it() -> None:
    net = Net(
        lambda net, x: net.out(torch.cat([(y := net.a(x))[:, :5].relu(), y[:, 5:]], 1)), a=conv(3, 12), out=conv(12, 4)
    )
    assert sizes(prove(net, IMAGE)) == {"a": 7}
