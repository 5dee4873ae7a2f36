"""The smallest modules that use an operation, and what tracing them must give: shared by the tests of the rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Layers by name and a forward function over them, so that a case fits on a few lines."""

    def __init__(self, forward: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        return self.function(self, *args, **kwargs)


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
ROW = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
WORDS = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(3))


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    inputs: Any
    groups: dict[str, int]
    inexact: frozenset[str] = frozenset()


def conv(inner: int, outer: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, size, padding=size // 2, **options)
