"""What each family of operations says about dimensions, on the smallest modules that use it.

Every case states the groups it must have: a tracer that pins everything is right, and useless.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import icycle
from cases import IMAGE, ROW, WORDS, Case, Net, conv
from proof import prove, reasons, sizes

CASES = {
    "linear": Case(lambda: nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2)), ROW, {"0": 10}),
    "linear without bias on (..., features)": Case(
        lambda: nn.Sequential(nn.Linear(12, 10, bias=False), nn.Tanh(), nn.Linear(10, 2)), WORDS, {"0": 10}
    ),
    "convolution": Case(lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}),
    "convolution in one dimension": Case(
        lambda: nn.Sequential(nn.Conv1d(5, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)), WORDS, {"0": 8}
    ),
    "convolution in three dimensions": Case(
        lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 4, 1)), torch.randn(2, 3, 4, 4, 4), {"0": 8}
    ),
    "dilated and strided": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, dilation=2), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}
    ),
    "circular padding": Case(
        lambda: nn.Sequential(conv(3, 8, padding_mode="circular"), nn.ReLU(), conv(8, 4, padding_mode="circular")),
        IMAGE,
        {"0": 8},
    ),
    "depthwise": Case(
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8, groups=8), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}
    ),
    "depthwise with a multiplier": Case(
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 16, groups=8), nn.ReLU(), conv(16, 4)),
        IMAGE,
        {"0": 8, "2": 2},
    ),
    "grouped": Case(  # whole groups, channels within every group, and outputs within every group
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12, groups=4), nn.ReLU(), conv(12, 4)),
        IMAGE,
        {"0": 4, "0#2": 2, "2": 3},
    ),
    "transposed": Case(
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ReLU(), conv(6, 4)),
        IMAGE,
        {"0": 8, "2": 6},
    ),
    "transposed and grouped": Case(
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), nn.ConvTranspose2d(8, 12, 2, groups=4), nn.ReLU(), conv(12, 4)),
        IMAGE,
        {"0": 4, "0#2": 2, "2": 3},
    ),
    "batch norm": Case(lambda: nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}),
    "batch norm without parameters": Case(
        lambda: nn.Sequential(conv(3, 8), nn.BatchNorm2d(8, affine=False), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}
    ),
    "instance norm": Case(
        lambda: nn.Sequential(conv(3, 8), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}
    ),
    "layer norm": Case(
        lambda: nn.Sequential(nn.Linear(6, 10), nn.LayerNorm(10), nn.ReLU(), nn.Linear(10, 2)),
        ROW,
        {"0": 10},
        frozenset({"0"}),
    ),
    "RMS norm": Case(
        lambda: nn.Sequential(nn.Linear(6, 10), nn.RMSNorm(10), nn.ReLU(), nn.Linear(10, 2)),
        ROW,
        {"0": 10},
        frozenset({"0"}),
    ),
    "group norm": Case(  # groups go exactly, channels within every group do not
        lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 4)),
        IMAGE,
        {"0": 4, "0#2": 2},
        frozenset({"0#2"}),
    ),
    "PReLU with a parameter per channel": Case(
        lambda: nn.Sequential(conv(3, 8), nn.PReLU(8), conv(8, 4)), IMAGE, {"0": 8}
    ),
    "pooling": Case(
        lambda: nn.Sequential(
            conv(3, 8), nn.MaxPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        ),
        IMAGE,
        {"0": 8},
    ),
    "pooling of channels that lie last in memory": Case(
        lambda: Net(
            lambda self, x: self.out(
                F.adaptive_avg_pool2d(self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 1).flatten(1)
            ),
            inner=nn.Linear(3, 8),
            out=nn.Linear(8, 2),
        ),
        IMAGE,
        {"inner": 8},
    ),
    "flatten of positions": Case(
        lambda: nn.Sequential(conv(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)), IMAGE, {"0": 4}
    ),
    "interpolation": Case(
        lambda: nn.Sequential(conv(3, 8), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReLU(), conv(8, 4)),
        IMAGE,
        {"0": 8},
    ),
    "spatial dropout": Case(
        lambda: nn.Sequential(conv(3, 8), nn.Dropout2d(0.5), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}
    ),
    "sigmoid gate": Case(  # sigmoid(0) is not 0, but what it multiplies is
        lambda: Net(
            lambda net, x: net.out(net.a(x) * torch.sigmoid(net.b(x))), a=conv(3, 8), b=conv(3, 8), out=conv(8, 4)
        ),
        IMAGE,
        {"a": 8},
    ),
    "squeeze and excitation": Case(
        lambda: Net(
            lambda net, x: net.out(
                (y := torch.relu(net.stem(x)))
                * torch.sigmoid(net.up(torch.relu(net.down(y.mean((2, 3), keepdim=True)))))
            ),
            stem=conv(3, 8),
            down=conv(8, 4, 1),
            up=conv(4, 8, 1),
            out=conv(8, 4),
        ),
        IMAGE,
        {"stem": 8, "down": 4},
    ),
    "residual": Case(
        lambda: Net(
            lambda net, x: net.out(torch.relu((y := net.stem(x)) + net.b(torch.relu(net.a(y))))),
            stem=conv(3, 8),
            a=conv(8, 6),
            b=conv(6, 8),
            out=conv(8, 4),
        ),
        IMAGE,
        {"stem": 8, "a": 6},
    ),
    "residual with the input": Case(
        lambda: Net(
            lambda net, x: net.out(x + net.b(torch.relu(net.a(x)))), a=conv(3, 6), b=conv(6, 3), out=conv(3, 4)
        ),
        IMAGE,
        {"a": 6},
    ),
    "concatenation": Case(
        lambda: Net(
            lambda net, x: net.out(torch.cat([y := torch.relu(net.a(x)), torch.relu(net.b(y)), y], 1)),
            a=conv(3, 6),
            b=conv(6, 5),
            out=conv(17, 4),
        ),
        IMAGE,
        {"a": 6, "b": 5},
    ),
    "norm over a concatenation": Case(
        lambda: Net(
            lambda net, x: net.out(net.norm(torch.cat([net.a(x), net.b(x)], 1))),
            a=conv(3, 6),
            b=conv(3, 5),
            norm=nn.BatchNorm2d(11),
            out=conv(11, 4),
        ),
        IMAGE,
        {"a": 6, "b": 5},
    ),
    "concatenation plus convolution": Case(  # the convolution's channels are cut where the concatenation is
        lambda: Net(
            lambda net, x: net.out(torch.relu(torch.cat([net.a(x), net.b(x)], 1) + net.c(x))),
            a=conv(3, 6),
            b=conv(3, 5),
            c=conv(3, 11),
            out=conv(11, 4),
        ),
        IMAGE,
        {"a": 6, "b": 5},
    ),
    "chunk": Case(
        lambda: Net(lambda net, x: net.out(torch.mul(*net.a(x).chunk(2, dim=1))), a=conv(3, 12), out=conv(6, 4)),
        IMAGE,
        {"a": 6},
    ),
    "gated linear unit": Case(lambda: nn.Sequential(nn.Linear(6, 20), nn.GLU(), nn.Linear(10, 2)), ROW, {"0": 10}),
    "split by an attribute": Case(
        lambda: Net(
            lambda net, x: net.out(torch.cat([torch.relu(part) for part in net.a(x).split(net.sizes, dim=1)][::-1], 1)),
            a=conv(3, 12),
            out=conv(12, 4),
            sizes=[5, 7],
        ),
        IMAGE,
        {"a": 5, "a#2": 7},
    ),
    "slices by an attribute": Case(
        lambda: Net(
            lambda net, x: net.out(torch.cat([(y := net.a(x))[:, : net.front].relu(), y[:, net.front :]], 1)),
            a=conv(3, 12),
            out=conv(12, 4),
            front=5,
        ),
        IMAGE,
        {"a": 5, "a#2": 7},
    ),
    "slices by a part of a size": Case(
        lambda: Net(
            lambda net, x: net.out((y := net.a(x))[:, : y.shape[1] // 2] * y[:, y.shape[1] // 2 :]),
            a=conv(3, 12),
            out=conv(6, 4),
        ),
        IMAGE,
        {"a": 6},
    ),
    "channel shuffle": Case(
        lambda: Net(lambda net, x: net.out(_shuffled(net.a(x).relu(), 3)), a=conv(3, 12), out=conv(12, 4)),
        IMAGE,
        {"a": 4},
    ),
    "torch's channel shuffle": Case(
        lambda: nn.Sequential(conv(3, 12), nn.ReLU(), nn.ChannelShuffle(3), conv(12, 4)), IMAGE, {"0": 4}
    ),
    "pixel shuffle": Case(
        lambda: nn.Sequential(conv(3, 20), nn.ReLU(), nn.PixelShuffle(2), conv(5, 4)), IMAGE, {"0": 5}
    ),
    "pixel unshuffle": Case(
        lambda: nn.Sequential(conv(3, 5), nn.ReLU(), nn.PixelUnshuffle(2), conv(20, 4)), IMAGE, {"0": 5}
    ),
    "zero-padded shortcut": Case(
        lambda: Net(
            lambda net, x: net.out(torch.relu(F.pad(net.a(x), (0, 0, 0, 0, 2, 2)) + net.c(net.b(x).relu()))),
            a=conv(3, 6),
            b=conv(3, 5),
            c=conv(5, 10),
            out=conv(10, 4),
        ),
        IMAGE,
        {"a": 6, "b": 5},
    ),
    "embedding": Case(
        lambda: Net(
            lambda net, x: net.out(torch.relu(net.hidden(net.table(x)))),
            table=nn.Embedding(9, 12),
            hidden=nn.Linear(12, 7),
            out=nn.Linear(7, 2),
        ),
        torch.tensor([[1, 2, 3], [4, 5, 8]]),
        {"table": 12, "hidden": 7},
    ),
    "tied weights": Case(lambda: _tied(), torch.tensor([[1, 2, 3], [4, 5, 8]]), {"table": 12, "hidden": 7}),
    "module used twice": Case(
        lambda: Net(
            lambda net, x: net.out(net.b(net.b(net.a(x).relu()).relu()).relu()),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 8),
            out=nn.Linear(8, 2),
        ),
        ROW,
        {"a": 8},
    ),
    "products of weights and einsum": Case(
        lambda: Net(
            lambda net, x: torch.einsum("bi,oi->bo", torch.einsum("bi,oi->bo", x, net.first).relu(), net.second),
            first=nn.Parameter(torch.randn(10, 6)),
            second=nn.Parameter(torch.randn(2, 10)),
        ),
        ROW,
        {"first": 10},
    ),
    "scale per channel": Case(
        lambda: Net(
            lambda net, x: net.out(net.a(x) * net.gamma.view(1, -1, 1, 1)),
            a=conv(3, 8),
            gamma=nn.Parameter(torch.randn(8)),
            out=conv(8, 4),
        ),
        IMAGE,
        {"a": 8},
    ),
    "buffer per channel": Case(lambda: _with_buffer(), IMAGE, {"a": 8}),
    "weight norm": Case(
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(6, 10)),
            nn.ReLU(),
            nn.utils.parametrizations.weight_norm(nn.Linear(10, 2)),
        ),
        ROW,
        {"0.parametrizations.weight": 10},
        frozenset({"0.parametrizations.weight"}),
    ),
    "unfold": Case(
        lambda: Net(
            lambda net, x: net.out(F.unfold(net.a(x).relu(), 3, padding=1).transpose(1, 2)),
            a=conv(3, 5),
            out=nn.Linear(45, 2),
        ),
        IMAGE,
        {"a": 5},
    ),
    "bilinear": Case(
        lambda: Net(
            lambda net, x: net.out(net.pair(net.a(x).relu(), net.b(x).relu()).relu()),
            a=nn.Linear(6, 5),
            b=nn.Linear(6, 7),
            pair=nn.Bilinear(5, 7, 8),
            out=nn.Linear(8, 2),
        ),
        ROW,
        {"a": 5, "b": 7, "pair": 8},
    ),
    "stacked branches summed": Case(
        lambda: Net(
            lambda net, x: net.out(torch.stack([net.a(x).relu(), net.b(x).relu()]).sum(0)),
            a=conv(3, 8),
            b=conv(3, 8),
            out=conv(8, 4),
        ),
        IMAGE,
        {"a": 8},
    ),
    "repeated channels": Case(
        lambda: Net(lambda net, x: net.out(net.a(x).relu().repeat(1, 2, 1, 1)), a=conv(3, 6), out=conv(12, 4)),
        IMAGE,
        {"a": 6},
    ),
}


def _shuffled(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(batch, -1, height, width)


def _tied() -> nn.Module:
    return Net(
        lambda net, x: F.linear(net.back(torch.relu(net.hidden(net.table(x)))), net.table.weight),
        table=nn.Embedding(9, 12),
        hidden=nn.Linear(12, 7),
        back=nn.Linear(7, 12),
    )


def _with_buffer() -> nn.Module:
    net = Net(lambda net, x: net.out(torch.relu(net.a(x)) * net.scale), a=conv(3, 8), out=conv(8, 4))
    net.register_buffer("scale", torch.rand(1, 8, 1, 1), persistent=False)
    return net


@pytest.mark.parametrize("name", CASES)
def test_half_of_everything_goes_as_promised(name: str) -> None:
    case = CASES[name]
    structure = prove(case.build(), case.inputs)
    assert sizes(structure) == case.groups, reasons(structure)
    assert {group.name for group in structure.prunable if not group.exact} == case.inexact


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_other_shares_go_as_promised(name: str, seed: int) -> None:
    case = CASES[name]
    prove(case.build(), case.inputs, seed)


# ---- attention ----


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


# ---- outputs and inputs of every kind ----


@dataclass
class Answer:
    logits: Tensor
    features: Tensor


def _two(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    hidden = net.a(x).relu()
    return net.b(hidden), net.c(hidden)


OUTPUTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "tuple": _two,
    "dict": lambda net, x: dict(zip(("one", "two"), _two(net, x), strict=True)),
    "nested": lambda net, x: {"all": [_two(net, x)], "number": 3},
    "dataclass": lambda net, x: Answer(*_two(net, x)),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_are_found_wherever_they_are(kind: str) -> None:
    net = Net(OUTPUTS[kind], a=nn.Linear(6, 10), b=nn.Linear(10, 2), c=nn.Linear(10, 4))
    structure = prove(net, ROW)
    assert sizes(structure) == {"a": 10}
    assert reasons(structure).count("an output of the model") == 2


@pytest.mark.parametrize("inputs", [(ROW, -ROW), [ROW, -ROW], {"x": ROW, "y": -ROW}], ids=["tuple", "list", "dict"])
def test_several_inputs(inputs: Any) -> None:
    net = Net(
        lambda net, x, y: net.out((net.a(x) + net.b(y)).relu()),
        a=nn.Linear(6, 10),
        b=nn.Linear(6, 10),
        out=nn.Linear(10, 2),
    )
    assert sizes(prove(net, inputs)) == {"a": 10}


# ---- what must stay, and why ----


def test_a_literal_size_pins_and_the_reason_says_where() -> None:
    class Literal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Linear(6, 12), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x).view(-1, 3, 4).relu().flatten(1))

    structure = prove(nn.Sequential(nn.Identity(), Literal()), ROW)
    assert not structure.prunable
    assert re.search(r"aten::view at 1 \(test_tracing_rules\.py:\d+\)", structure["1.a"].reason)


def test_a_literal_for_one_factor_leaves_the_other() -> None:
    net = Net(
        lambda net, x: net.out(net.a(x).view(-1, 3, net.width).relu().flatten(1)),
        a=nn.Linear(6, 12),
        out=nn.Linear(12, 2),
        width=4,
    )
    assert sizes(prove(net, ROW)) == {"a": 4}


def test_a_literal_cut_pins_what_lies_before_it() -> None:
    net = Net(
        lambda net, x: net.out(torch.cat([(y := net.a(x))[:, :5].relu(), y[:, 5:]], 1)), a=conv(3, 12), out=conv(12, 4)
    )
    assert sizes(prove(net, IMAGE)) == {"a": 7}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(1),
        lambda x: x.flip(1),
        lambda x: x.roll(1, 1),
        lambda x: x.sort(1)[0],
        lambda x: x.cumsum(1),
        lambda x: x[:, torch.arange(9, -1, -1)],
        lambda x: x[:, ::1].index_select(1, torch.arange(10)),
        lambda x: x.topk(10, 1)[0],
        lambda x: torch.fft.fft(x, dim=1).real,
        lambda x: torch.stack(x.unbind(1), 1),
    ],
)
def test_operations_that_need_every_channel_pin_them(function: Callable[[Tensor], Tensor]) -> None:
    net = Net(
        lambda net, x: net.out(function(net.a(x)).relu() + net.b(net.c(x).relu())),
        a=nn.Linear(6, 10),
        c=nn.Linear(6, 8),
        b=nn.Linear(8, 10),
        out=nn.Linear(10, 2),
    )
    structure = prove(net, ROW)
    assert sizes(structure) == {"c": 8}
    assert structure["a"].reason


def test_moments_over_channels_are_not_exact() -> None:
    net = Net(
        lambda net, x: net.out((y := net.a(x)) - y.mean(1, keepdim=True)), a=nn.Linear(6, 10), out=nn.Linear(10, 2)
    )
    structure = prove(net, ROW)
    assert sizes(structure) == {"a": 10}
    assert not structure["a"].exact
    assert "mean" in structure["a"].inexact_reason


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (torch.relu, True),
        (F.gelu, True),
        (torch.tanh, True),
        (F.hardswish, True),
        (lambda x: x.clamp(0, 1), True),
        (lambda x: x.clamp(0.5, 1), False),
        (lambda x: x.clamp_min(0.5), False),
        (torch.sigmoid, False),
        (torch.cos, False),
        (torch.exp, False),
        (F.softplus, False),
        (F.hardsigmoid, False),
        (lambda x: x + 1, False),
        (lambda x: 1 - x, False),
        (lambda x: x - 1, False),
        (lambda x: 2 * x, True),
        (lambda x: x / 3, True),
        (lambda x: x**2, True),
        (lambda x: x**0, False),
        (lambda x: x.masked_fill(x > 0, 3.0), False),
        (lambda x: torch.where(x > 0, x, torch.ones(())), False),
        (lambda x: torch.where(x > 0, x, -x), True),
        (lambda x: F.threshold(x, 0.1, 0.5), False),
        (lambda x: torch.maximum(x, torch.ones(())), False),
        (lambda x: x == 0, False),
        (lambda x: x.double().expm1(), True),
        (lambda x: torch.atan2(x, torch.ones(())), True),
        (lambda x: torch.nan_to_num(x), True),
        (lambda x: torch.addcmul(x, x, x), True),
        (lambda x: torch.lerp(x, torch.ones_like(x), 0.5), False),
        (lambda x: torch.logaddexp(x, x), False),
        (lambda x: torch.rsub(x, 1), False),
        (lambda x: F.elu(x), True),
        (lambda x: F.silu(x, inplace=True), True),
        (lambda x: x.add_(1), False),
        (lambda x: x.mul_(2).relu_(), True),
        (lambda x: x.fill_(1.0) * 2, False),
        (lambda x: torch.full_like(x, 1.0), False),
    ],
)
def test_zero_stays_zero_or_the_group_is_not_exact(function: Callable[[Tensor], Tensor], exact: bool) -> None:
    """The proof inside `prove` fails where a function is taken for one that keeps zero and does not."""
    net = Net(lambda net, x: net.out(function(net.a(x)).to(x.dtype)), a=nn.Linear(6, 10), out=nn.Linear(10, 2))
    structure = prove(net, ROW)
    assert structure["a"].prunable
    if exact:
        assert structure["a"].exact, structure["a"].inexact_reason


# ---- operations without a rule ----


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def test_a_custom_autograd_function_is_seen_through() -> None:
    net = Net(lambda net, x: net.out(_Doubled.apply(net.a(x).relu())), a=nn.Linear(6, 10), out=nn.Linear(10, 2))
    assert sizes(prove(net, ROW)) == {"a": 10}


@torch.library.custom_op("icycle_tests::tripled", mutates_args=())
def tripled(x: Tensor) -> Tensor:
    return x * 3


tripled.register_fake(torch.empty_like)
tripled.register_autograd(lambda ctx, gradient: gradient * 3)


def _with_custom_operation() -> nn.Module:
    return Net(lambda net, x: net.out(tripled(net.a(x).relu())), a=nn.Linear(6, 10), out=nn.Linear(10, 2))


def test_an_unknown_operation_pins_what_it_touches_and_is_named() -> None:
    structure = prove(_with_custom_operation(), ROW)
    assert not structure.prunable
    assert "no rule for icycle_tests::tripled" in structure["a"].reason


def test_a_registered_rule_makes_it_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from icycle.tracing import Tracer, _registry, register

    monkeypatch.setattr(_registry, "_rules", dict(_registry._rules))

    @register("icycle_tests::tripled")
    def rule(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        info = tracer.info(args[0])
        tracer.give(result, info.dims, info.zero)

    assert sizes(prove(_with_custom_operation(), ROW)) == {"a": 10}


# ---- code that reads values, caches tensors, or is not run ----


def test_code_that_reads_values_is_traced_on_real_tensors() -> None:
    net = Net(
        lambda net, x: net.out(y if (y := net.a(x).relu()).mean() > -1 else y * 0),
        a=nn.Linear(6, 10),
        out=nn.Linear(10, 2),
    )
    structure = icycle.trace(net, ROW)
    assert "a" in {group.name for group in structure.groups}
    prove(net, ROW)


def test_code_that_reads_integer_inputs_stays_without_data() -> None:
    def forward(net: Any, x: Tensor, mask: Tensor) -> Tensor:
        return net.out(net.a(x).relu() * (1 if mask.all() else 2))

    net = Net(forward, a=nn.Linear(6, 10), out=nn.Linear(10, 2))
    assert sizes(prove(net, (ROW, torch.ones(2, dtype=torch.bool)))) == {"a": 10}


class Cached(nn.Module):
    """Keeps a result computed from weights in a plain dict, in eval mode, as models with attention biases do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 10), nn.Linear(6, 10), nn.Linear(10, 2)
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.out(self.a(x) * self.b.weight.sum(1))
        if "sum" not in self.cache:
            self.cache["sum"] = self.b.weight.sum(1)
        return self.out(self.a(x) * self.cache["sum"])


def test_cached_tensors_are_dropped_by_a_removal() -> None:
    model = Cached().double().eval()
    structure = prove(model, ROW)
    assert sizes(structure) == {"b.in": 6, "a": 10}
    with torch.no_grad():
        model(ROW.double())
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
    assert not model.cache
    assert model(ROW.double()).shape == (2, 2)


def test_cached_tensors_do_not_pin() -> None:
    model = Cached().double().eval()
    with torch.no_grad():
        model(ROW.double())
    assert sizes(prove(model, ROW)) == {"b.in": 6, "a": 10}


def test_constants_in_a_dict_are_kept() -> None:
    net = Net(
        lambda net, x: net.out(net.a(x).relu() * net.constants["scale"]),
        a=nn.Linear(6, 10),
        out=nn.Linear(10, 2),
        constants={"scale": torch.full((), 2.0)},
    )
    assert sizes(prove(net, ROW)) == {"a": 10}


def test_modules_the_example_does_not_run_are_left_alone() -> None:
    net = Net(lambda net, x: net.out(net.a(x).relu()), a=nn.Linear(6, 10), out=nn.Linear(10, 2), idle=nn.Linear(10, 9))
    structure = prove(net, ROW)
    assert sizes(structure) == {"a": 10}
    assert "was not used" in structure["idle"].reason


def test_an_auxiliary_head_of_training_mode_loses_channels_with_the_others() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        hidden = net.a(x).relu()
        return (net.out(hidden), net.extra(hidden)) if net.training else net.out(hidden)

    net = Net(forward, a=nn.Linear(6, 10), out=nn.Linear(10, 2), extra=nn.Linear(10, 3))
    assert sizes(prove(net, ROW)) == {"a": 10}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_right_or_say_why_not(kind: type[nn.RNNBase], bidirectional: bool, layers: int) -> None:
    net = Net(
        lambda net, x: net.out(net.hidden(net.core(net.a(x).relu())[0]).relu()),
        a=nn.Linear(12, 10),
        core=kind(10, 8, num_layers=layers, bidirectional=bidirectional, batch_first=True),
        hidden=nn.Linear(16 if bidirectional else 8, 6),
        out=nn.Linear(6, 2),
    )
    structure = prove(net, WORDS)
    assert structure["a"].prunable
    assert structure["hidden"].prunable
    assert any(structure[name].prunable for name in ("core",)), reasons(structure)
