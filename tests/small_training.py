"""A small network, batches and settings: what the tests of the training loop train."""

from __future__ import annotations

import torch
from torch import nn

from icycle.training import TrainSettings

__all__ = ["Batches", "Calls", "assert_equal", "batches", "network", "settings", "tensors"]

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6, 3),
    )


def batches(count: int = 4, size: int = 8, seed: int = 1) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 1, 8, 8, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"epochs": 3, "batch_size": 8, **changes})


def tensors(model: nn.Module) -> list[torch.Tensor]:
    """Copies of its parameters and buffers."""
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


def assert_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert len(first) == len(second)
    assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))


class Calls:
    """Hooks that write down when they were called."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def start_epoch(self, epoch: int) -> None:
        self.log.append(f"epoch {epoch}")

    def after_step(self) -> None:
        self.log.append("step")
