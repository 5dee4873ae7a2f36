"""Small networks that several tests use, and what there is to see of a model from outside."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Branches(nn.Module):
    """A stem, a residual block with a depthwise convolution, a concatenation, a flattening; buffers of both kinds."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.point = nn.Conv2d(width, width, 1)
        self.side = nn.Conv2d(width, 6, 1)
        self.mix = nn.Conv2d(width + 6, 10, 1)
        self.hidden = nn.Linear(10 * 16, 12)
        self.head = nn.Linear(12, 4)
        self.register_buffer("scale", torch.rand(width, 1, 1))
        self.register_buffer("hint", torch.rand(width, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x))) * self.scale
        x = x + self.point(torch.relu(self.depthwise(x))) * self.hint
        x = torch.relu(self.mix(torch.cat([x, torch.relu(self.side(x))], dim=1)))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


class Words(nn.Module):
    """An embedding tied to the output, an attention layer with attributes for its sizes, and nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.heads = 12, 4
        self.table = nn.Embedding(9, 12)
        self.qkv = nn.Linear(12, 36)
        self.project = nn.Linear(12, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.hidden = nn.Linear(12, 20)
        self.back = nn.Linear(20, 12)
        self.out = nn.Linear(12, 9, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.table(tokens)
        batch, n, _ = x.shape
        q, k, v = self.qkv(x).view(batch, n, 3, self.heads, self.dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, n, self.dim))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.back(torch.relu(self.hidden(x)))
        return {"logits": self.out(x)}


IMAGE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[1, 2, 3], [4, 5, 8]])


class Residual(nn.Module):
    """A residual block, so that weights are an output of one group and an input of another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def residual_network(width: int = 16) -> nn.Sequential:
    """A stem, two residual blocks and a classifier of three: (batch, 1, height, width) -> (batch, 3)."""
    torch.manual_seed(0)
    stem = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(
        *stem, Residual(width), Residual(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)
    )


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All there is to see of a model: identities and values of tensors, classes, modes, hooks and attributes."""
    seen: dict[str, Any] = {}
    for path, module in model.named_modules():
        seen[f"{path}/class"] = type(module)
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers"):
                seen[f"{path}/{name}"] = {
                    key: None if tensor is None else (id(tensor), tensor.detach().clone(), tensor.requires_grad)
                    for key, tensor in value.items()
                }
            elif name == "_modules":
                seen[f"{path}/{name}"] = {key: id(child) for key, child in value.items()}
            else:
                seen[f"{path}/{name}"] = (id(value), copy.copy(value))
    return seen


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The entries in which two snapshots differ."""
    return [key for key in before.keys() | after.keys() if not _same(before.get(key), after.get(key))]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a is b or a == b)
