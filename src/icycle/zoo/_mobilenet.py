"""MobileNetV2 for small images (Sandler and others, arXiv 1801.04381): the first two strides are 1."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["CifarMobileNetV2"]

# Expansion, output channels (for a stem of 32), blocks, stride of the first block: table 2 of the paper.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM = 32
_HEAD = 1280


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, ReLU6."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)]


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel on its own, project back without a nonlinearity."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = _unit(inputs, hidden, 1) if expansion > 1 else []
        project = [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.layers = nn.Sequential(*expand, *_unit(hidden, hidden, 3, stride, groups=hidden), *project)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class CifarMobileNetV2(nn.Module):
    """Input `(batch, in_channels, height, width)`; output `(batch, num_classes)`. `width` is the stem's."""

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = _STEM) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(8, round(channels * width / _STEM / 8) * 8)

        blocks: list[nn.Module] = []
        channels = width
        for expansion, stage_channels, repeats, first_stride in _STAGES:
            outputs = scaled(stage_channels)
            for position in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, expansion, first_stride if position == 0 else 1))
                channels = outputs
        self.stem = nn.Sequential(*_unit(in_channels, width, 3))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*_unit(channels, scaled(_HEAD), 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(scaled(_HEAD), num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.fc(torch.flatten(self.pool(x), 1))
