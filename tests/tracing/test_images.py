"""What operations on images say about dimensions: pooling, padding, pixels and channels that change places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import IMAGE, Case, Net, conv

CASES = {
    "pooling": Case(
        lambda: nn.Sequential(
            conv(3, 8), nn.MaxPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        ),
        IMAGE,
        {"0": 8},
    ),
    "pooling of channels that lie last in memory": Case(
        lambda: Net(
            lambda self, x: self.out(
                F.adaptive_avg_pool2d(self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 1).flatten(1)
            ),
            inner=nn.Linear(3, 8),
            out=nn.Linear(8, 2),
        ),
        IMAGE,
        {"inner": 8},
    ),
    "flatten of positions": Case(
        lambda: nn.Sequential(conv(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)), IMAGE, {"0": 4}
    ),
    "interpolation": Case(
        lambda: nn.Sequential(conv(3, 8), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReLU(), conv(8, 4)),
        IMAGE,
        {"0": 8},
    ),
    "spatial dropout": Case(
        lambda: nn.Sequential(conv(3, 8), nn.Dropout2d(0.5), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}
    ),
    "channel shuffle": Case(
        lambda: Net(lambda net, x: net.out(_shuffled(net.a(x).relu(), 3)), a=conv(3, 12), out=conv(12, 4)),
        IMAGE,
        {"a": 4},
    ),
    "torch's channel shuffle": Case(
        lambda: nn.Sequential(conv(3, 12), nn.ReLU(), nn.ChannelShuffle(3), conv(12, 4)), IMAGE, {"0": 4}
    ),
    "pixel shuffle": Case(
        lambda: nn.Sequential(conv(3, 20), nn.ReLU(), nn.PixelShuffle(2), conv(5, 4)), IMAGE, {"0": 5}
    ),
    "pixel unshuffle": Case(
        lambda: nn.Sequential(conv(3, 5), nn.ReLU(), nn.PixelUnshuffle(2), conv(20, 4)), IMAGE, {"0": 5}
    ),
    "zero-padded shortcut": Case(
        lambda: Net(
            lambda net, x: net.out(torch.relu(F.pad(net.a(x), (0, 0, 0, 0, 2, 2)) + net.c(net.b(x).relu()))),
            a=conv(3, 6),
            b=conv(3, 5),
            c=conv(5, 10),
            out=conv(10, 4),
        ),
        IMAGE,
        {"a": 6, "b": 5},
    ),
    "unfold": Case(
        lambda: Net(
            lambda net, x: net.out(F.unfold(net.a(x).relu(), 3, padding=1).transpose(1, 2)),
            a=conv(3, 5),
            out=nn.Linear(45, 2),
        ),
        IMAGE,
        {"a": 5},
    ),
}


def _shuffled(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(batch, -1, height, width)
