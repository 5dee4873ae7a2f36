"""Small networks for tasks other than classifying images."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

__all__ = ["MLP", "SmallFCN", "TinyTransformer"]


class MLP(nn.Module):
    """Two hidden layers of `width` units. Input `(batch, in_channels)`; output `(batch, num_classes)`."""

    def __init__(self, num_classes: int, in_channels: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_channels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class SmallFCN(nn.Module):
    """A fully convolutional network: down by two, two convolutions, and up again beside what came before.

    Input `(batch, in_channels, height, width)`; output `(batch, num_classes, height, width)`.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.fine = _unit(in_channels, width, 1)
        self.down = _unit(width, 2 * width, 2)
        self.coarse = _unit(2 * width, 2 * width, 1)
        self.merge = _unit(3 * width, width, 1)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.fine(x)
        coarse = interpolate(self.coarse(self.down(fine)), scale_factor=2.0)
        return self.head(self.merge(torch.cat([fine, coarse], dim=1)))


def _unit(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class _Block(nn.Module):
    """Attention and an MLP, each on normalised input and added to it (Vaswani and others, arXiv 1706.03762)."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        y = self.norm1(x)
        q, k, v = (
            part(y).view(batch, tokens, self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).reshape(batch, tokens, -1)
        x = x + self.out(mixed)
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class TinyTransformer(nn.Module):
    """A transformer over tokens. Input int64 `(batch, tokens)`; output `(batch, tokens, num_classes)`.

    Args:
        words: size of the vocabulary, that of the outputs when omitted.
        causal: no token sees those behind it, as language models need.
        length: the most tokens of an input.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 32,
        words: int | None = None,
        causal: bool = True,
        depth: int = 2,
        heads: int = 4,
        length: int = 64,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words or num_classes, width)
        self.places = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(_Block(width, heads, causal) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))
