"""Layers written with einops, which keeps the sizes of one layer for the next in a cache of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import icycle
from proof import prove, sizes

einops = pytest.importorskip("einops")
layers = pytest.importorskip("einops.layers.torch")


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = head_width**-0.5
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (einops.rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in self.qkv(x).chunk(3, -1))
        weights = (q @ k.transpose(-1, -2) * self.scale).softmax(-1)
        return self.out(einops.rearrange(weights @ v, "b h n d -> b n (h d)"))


def make() -> nn.Sequential:
    patches = layers.Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2)
    mean = layers.Reduce("b n d -> b d", "mean")
    return nn.Sequential(patches, nn.Linear(12, 16), Attention(16, 4, 3), nn.GELU(), mean, nn.Linear(16, 5)).eval()


def test_heads_and_width_go() -> None:
    structure = prove(make(), torch.randn(2, 3, 6, 6), seed=1)
    assert sizes(structure) == {"1": 16, "2.qkv": 4, "2.out": 16}


def test_a_trace_leaves_no_sizes_behind() -> None:
    model, other = make(), make()
    example = torch.randn(2, 3, 6, 6)
    expected = other(example)
    structure = icycle.trace(model, example)
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5, 0))
    assert model(example).shape == (2, 5)
    assert torch.equal(other(example), expected)
