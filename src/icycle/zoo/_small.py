"""A small network for 8x8 digits."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["SmallCNN"]


class SmallCNN(nn.Module):
    """Two pairs of 3x3 convolutions with a pooling between them; the second pair has a residual connection.

    Input `(batch, in_channels, height, width)`, at least 2 pixels a side; output `(batch, num_classes)`.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, width: int = 64) -> None:
        super().__init__()
        self.stem = _unit(in_channels, width)
        self.low = _unit(width, width)
        self.pool = nn.MaxPool2d(2)
        self.widen = _unit(width, 2 * width)
        self.inner = _unit(2 * width, 2 * width)
        self.outer = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width))
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.widen(self.pool(self.low(self.stem(x))))
        x = torch.relu(x + self.outer(self.inner(x)))
        return self.fc(torch.flatten(self.average(x), 1))


def _unit(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
