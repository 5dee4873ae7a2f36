"""DenseNet-BC for small images (Huang and others, arXiv 1608.06993, section 4)."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["CifarDenseNet"]


def _activated(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Batch norm, ReLU, convolution, in that order."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), convolution)


class DenseLayer(nn.Module):
    """A bottleneck of 4 `growth` channels, then `growth` new channels beside all the earlier ones."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bottleneck = _activated(inputs, 4 * growth, 1)
        self.convolution = _activated(4 * growth, growth, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.convolution(self.bottleneck(x))], dim=1)


class CifarDenseNet(nn.Module):
    """A DenseNet-BC of depth 6n + 4: three blocks of n layers, halved by transitions.

    Input `(batch, in_channels, height, width)`; output `(batch, num_classes)`. `width` is the growth rate.
    """

    def __init__(self, depth: int, num_classes: int, in_channels: int = 3, width: int = 12) -> None:
        super().__init__()
        if depth % 6 != 4:
            raise ValueError(f"Expected a depth of 6n + 4, but got {depth}")
        channels = 2 * width
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for block in range(3):
            if block > 0:
                blocks += [_activated(channels, channels // 2, 1), nn.AvgPool2d(2)]
                channels //= 2
            for _ in range((depth - 4) // 6):
                blocks.append(DenseLayer(channels, width))
                channels += width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.blocks(self.stem(x))))
        return self.fc(torch.flatten(self.pool(x), 1))
