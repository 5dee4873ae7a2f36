"""What joining and dividing says about dimensions: sums, concatenations, halves, slices, stacks and copies."""

from __future__ import annotations

import torch
from torch import nn

from cases import IMAGE, ROW, Case, Net, conv

CASES = {
    "residual": Case(
        lambda: Net(
            lambda net, x: net.out(torch.relu((y := net.stem(x)) + net.b(torch.relu(net.a(y))))),
            stem=conv(3, 8),
            a=conv(8, 6),
            b=conv(6, 8),
            out=conv(8, 4),
        ),
        IMAGE,
        {"stem": 8, "a": 6},
    ),
    "residual with the input": Case(
        lambda: Net(
            lambda net, x: net.out(x + net.b(torch.relu(net.a(x)))), a=conv(3, 6), b=conv(6, 3), out=conv(3, 4)
        ),
        IMAGE,
        {"a": 6},
    ),
    "concatenation": Case(
        lambda: Net(
            lambda net, x: net.out(torch.cat([y := torch.relu(net.a(x)), torch.relu(net.b(y)), y], 1)),
            a=conv(3, 6),
            b=conv(6, 5),
            out=conv(17, 4),
        ),
        IMAGE,
        {"a": 6, "b": 5},
    ),
    "norm over a concatenation": Case(
        lambda: Net(
            lambda net, x: net.out(net.norm(torch.cat([net.a(x), net.b(x)], 1))),
            a=conv(3, 6),
            b=conv(3, 5),
            norm=nn.BatchNorm2d(11),
            out=conv(11, 4),
        ),
        IMAGE,
        {"a": 6, "b": 5},
    ),
    "concatenation plus convolution": Case(  # the convolution's channels are cut where the concatenation is
        lambda: Net(
            lambda net, x: net.out(torch.relu(torch.cat([net.a(x), net.b(x)], 1) + net.c(x))),
            a=conv(3, 6),
            b=conv(3, 5),
            c=conv(3, 11),
            out=conv(11, 4),
        ),
        IMAGE,
        {"a": 6, "b": 5},
    ),
    "chunk": Case(
        lambda: Net(lambda net, x: net.out(torch.mul(*net.a(x).chunk(2, dim=1))), a=conv(3, 12), out=conv(6, 4)),
        IMAGE,
        {"a": 6},
    ),
    "gated linear unit": Case(lambda: nn.Sequential(nn.Linear(6, 20), nn.GLU(), nn.Linear(10, 2)), ROW, {"0": 10}),
    "split by an attribute": Case(
        lambda: Net(
            lambda net, x: net.out(torch.cat([torch.relu(part) for part in net.a(x).split(net.sizes, dim=1)][::-1], 1)),
            a=conv(3, 12),
            out=conv(12, 4),
            sizes=[5, 7],
        ),
        IMAGE,
        {"a": 5, "a#2": 7},
    ),
    "slices by an attribute": Case(
        lambda: Net(
            lambda net, x: net.out(torch.cat([(y := net.a(x))[:, : net.front].relu(), y[:, net.front :]], 1)),
            a=conv(3, 12),
            out=conv(12, 4),
            front=5,
        ),
        IMAGE,
        {"a": 5, "a#2": 7},
    ),
    "slices by a part of a size": Case(
        lambda: Net(
            lambda net, x: net.out((y := net.a(x))[:, : y.shape[1] // 2] * y[:, y.shape[1] // 2 :]),
            a=conv(3, 12),
            out=conv(6, 4),
        ),
        IMAGE,
        {"a": 6},
    ),
    "stacked branches summed": Case(
        lambda: Net(
            lambda net, x: net.out(torch.stack([net.a(x).relu(), net.b(x).relu()]).sum(0)),
            a=conv(3, 8),
            b=conv(3, 8),
            out=conv(8, 4),
        ),
        IMAGE,
        {"a": 8},
    ),
    "repeated channels": Case(
        lambda: Net(lambda net, x: net.out(net.a(x).relu().repeat(1, 2, 1, 1)), a=conv(3, 6), out=conv(12, 4)),
        IMAGE,
        {"a": 6},
    ),
}
