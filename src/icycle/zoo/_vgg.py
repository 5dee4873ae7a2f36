"""VGG-16 and VGG-19 with batch norm and one linear layer, for small images (Simonyan, Zisserman, arXiv 1409.1556)."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["CifarVGG"]

# Channels as multiples of the first stage's; each stage ends with a pooling that halves the image.
_STAGES = ((1, 2), (2, 2), (4, None), (8, None), (8, None))  # multiple, convolutions; None: `per_stage` of them


class CifarVGG(nn.Module):
    """Four convolutions, `per_stage` in each of three more stages (3: VGG-16, 4: VGG-19), and a linear layer.

    Input `(batch, in_channels, height, width)` of any size; stops halving where one pixel is left.
    Output `(batch, num_classes)`.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 64, per_stage: int = 3) -> None:
        super().__init__()
        stages = []
        channels = in_channels
        for multiple, count in _STAGES:
            layers: list[nn.Module] = []
            for _ in range(count or per_stage):
                layers += [
                    nn.Conv2d(channels, multiple * width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(multiple * width),
                    nn.ReLU(inplace=True),
                ]
                channels = multiple * width
            # ceil_mode lets a 1-pixel image pass, so that 8x8 digits work as well as 32x32 photographs.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            stages.append(nn.Sequential(*layers))
        self.features = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))
