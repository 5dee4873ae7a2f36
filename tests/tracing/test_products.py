"""What products with a weight for each channel say about dimensions."""

from __future__ import annotations

import torch
from torch import nn

from cases import IMAGE, ROW, Case, Net, conv

CASES = {
    "sigmoid gate": Case(  # sigmoid(0) is not 0, but what it multiplies is
        lambda: Net(
            lambda net, x: net.out(net.a(x) * torch.sigmoid(net.b(x))), a=conv(3, 8), b=conv(3, 8), out=conv(8, 4)
        ),
        IMAGE,
        {"a": 8},
    ),
    "squeeze and excitation": Case(
        lambda: Net(
            lambda net, x: net.out(
                (y := torch.relu(net.stem(x)))
                * torch.sigmoid(net.up(torch.relu(net.down(y.mean((2, 3), keepdim=True)))))
            ),
            stem=conv(3, 8),
            down=conv(8, 4, 1),
            up=conv(4, 8, 1),
            out=conv(8, 4),
        ),
        IMAGE,
        {"stem": 8, "down": 4},
    ),
    "products of weights and einsum": Case(
        lambda: Net(
            lambda net, x: torch.einsum("bi,oi->bo", torch.einsum("bi,oi->bo", x, net.first).relu(), net.second),
            first=nn.Parameter(torch.randn(10, 6)),
            second=nn.Parameter(torch.randn(2, 10)),
        ),
        ROW,
        {"first": 10},
    ),
    "scale per channel": Case(
        lambda: Net(
            lambda net, x: net.out(net.a(x) * net.gamma.view(1, -1, 1, 1)),
            a=conv(3, 8),
            gamma=nn.Parameter(torch.randn(8)),
            out=conv(8, 4),
        ),
        IMAGE,
        {"a": 8},
    ),
    "buffer per channel": Case(lambda: _with_buffer(), IMAGE, {"a": 8}),
    "PReLU with a parameter per channel": Case(
        lambda: nn.Sequential(conv(3, 8), nn.PReLU(8), conv(8, 4)), IMAGE, {"0": 8}
    ),
}


def _with_buffer() -> nn.Module:
    net = Net(lambda net, x: net.out(torch.relu(net.a(x)) * net.scale), a=conv(3, 8), out=conv(8, 4))
    net.register_buffer("scale", torch.rand(1, 8, 1, 1), persistent=False)
    return net
