"""What attention says about dimensions: heads go, their width stays unless it is asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import WORDS, Net
from proof import prove, reasons, sizes


class Attention(nn.Module):
    """Self-attention or cross-attention, written out as most models do; sizes are computed from attributes."""

    def __init__(
        self, width: int = 12, heads: int = 4, groups: int | None = None, packed: bool = True, fused: bool = True
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.groups, self.fused, self.packed = width, heads, groups or heads, fused, packed
        self.head_dim = width // heads
        inner = self.groups * self.head_dim
        if packed:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, inner), nn.Linear(width, inner)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        q, k, v = self.project(x, x if context is None else context)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.groups != self.heads)
        else:
            mixed = ((q @ k.transpose(-2, -1)) / math.sqrt(self.head_dim)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))

    def project(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, n, _ = x.shape
        if self.packed:
            qkv = self.qkv(x).reshape(batch, n, 3, self.heads, self.dim // self.dim * self.head_dim)
            return qkv.permute(2, 0, 3, 1, 4).unbind(0)  # type: ignore[return-value]
        m = context.shape[1]
        q = self.q(x).view(batch, n, self.heads, self.head_dim).transpose(1, 2)
        k = self.k(context).view(batch, m, self.groups, self.head_dim).transpose(1, 2)
        v = self.v(context).view(batch, m, self.groups, self.head_dim).transpose(1, 2)
        return q, k, v


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_heads_go_exactly_and_their_width_stays(packed: bool, fused: bool) -> None:
    model = nn.Sequential(nn.Linear(12, 12), Attention(packed=packed, fused=fused), nn.Linear(12, 2))
    structure = prove(model, WORDS)
    name = "1.qkv" if packed else "1.q"
    assert sizes(structure) == {"0": 12, name: 4, "1.out": 12}
    assert structure[name].exact
    weight = next(piece for piece in structure[name].slices if piece.parameter == f"{name}.weight")
    assert weight.index.shape == (4, 9 if packed else 3)  # a head's rows in query, key and value


@pytest.mark.parametrize("fused", [True, False])
def test_the_width_of_heads_goes_when_asked(fused: bool) -> None:
    structure = prove(Attention(packed=False, fused=fused), WORDS, head_width=True)
    assert {3} < set(sizes(structure).values())


def test_grouped_queries_go_by_key_value_head() -> None:
    structure = prove(Attention(groups=2, packed=False), WORDS)
    assert list(sizes(structure).values()) == [2]


@pytest.mark.parametrize("enable_gqa", [True, False])
def test_queries_that_all_share_one_key_go_by_head(enable_gqa: bool) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        batch, n, _ = x.shape
        q, k, v = (layer(x).view(batch, n, -1, 3).transpose(1, 2) for layer in (net.q, net.k, net.v))
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=enable_gqa)
        return net.out(mixed.transpose(1, 2).reshape(batch, n, -1))

    layers = {"q": nn.Linear(12, 12), "k": nn.Linear(12, 3), "v": nn.Linear(12, 3), "out": nn.Linear(12, 12)}
    assert sizes(prove(Net(forward, **layers), WORDS))["q"] == 4


def test_cross_attention() -> None:
    structure = prove(Attention(packed=False), {"x": WORDS, "context": torch.randn(2, 7, 12)})
    assert list(sizes(structure).values()) == [4]


def test_sizes_computed_from_attributes() -> None:
    """The head width is written as a quotient of two attributes, one of which must follow the heads."""

    def forward(net: Any, x: Tensor) -> Tensor:
        batch, n, _ = x.shape
        q, k, v = (
            layer(x).view(batch, n, net.heads, net.dim // net.heads).transpose(1, 2) for layer in (net.q, net.k, net.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return net.out(mixed.transpose(1, 2).reshape(batch, n, net.dim))

    layers = {name: nn.Linear(12, 12) for name in ("q", "k", "v", "out")}
    structure = prove(Net(forward, heads=4, dim=12, **layers), WORDS)
    assert sizes(structure) == {"q": 4}


class _Encoder(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(12, 4, 20, dropout=0.0, **options)
        self.out = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x))


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_encoder_layer_loses_heads_and_hidden_units(batch_first: bool) -> None:
    structure = prove(_Encoder(batch_first=batch_first), WORDS)
    assert {4, 20} <= set(sizes(structure).values()), reasons(structure)


def test_torchs_transformer_decoder() -> None:
    model = nn.TransformerDecoderLayer(12, 4, 20, dropout=0.0, batch_first=True)
    structure = prove(model, (WORDS, torch.randn(2, 7, 12)))
    assert sorted(sizes(structure).values()) == [4, 4, 20], reasons(structure)
