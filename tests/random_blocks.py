"""The blocks that random networks are made of, written in the ways in which models write them.

A kind of block is a function of `draw` (Hypothesis's) and an example tensor; it gives a module that runs on the tensor.
Sizes come from attributes, from tensors, or are left to -1, as drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

__all__ = [
    "IMAGE",
    "LENGTHENING",
    "ROW",
    "SEQUENCE",
    "SHRINKING",
    "Block",
    "Draw",
    "Kind",
    "chain",
    "project",
    "widths",
]

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[T]], T]
Kind = Callable[[Draw, Tensor], nn.Module]

IMAGE: list[Kind] = []  # (batch, channels, height, width); height and width stay
SHRINKING: list[Kind] = []  # the same, height and width may change
SEQUENCE: list[Kind] = []  # (batch, positions, width); positions stay
LENGTHENING: list[Kind] = []  # the same, positions may be added
ROW: list[Kind] = []  # (batch, width)

widths = st.integers(2, 8)
_ACTIVATIONS = (
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Hardswish,
    nn.LeakyReLU,
    nn.Softplus,
    nn.Tanh,
    nn.ELU,
    nn.ReLU6,
)


class Block(nn.Module):
    """A forward function over named parts: modules, parameters, and numbers, which become attributes."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)

    def extra_repr(self) -> str:
        own = [f"{name}={value}" for name, value in vars(self).items() if type(value) in (int, bool, str)]
        own += [f"{name}: {tuple(value.shape)}" for name, value in self._parameters.items() if value is not None]
        name = self.function.__qualname__.replace(".<locals>.forward", "").replace(".<locals>.<lambda>", "")
        return ", ".join([name, *(text for text in own if not text.startswith("training"))])


def kind(*places: list[Kind]) -> Callable[[Kind], Kind]:
    """Register a kind of block for these inputs."""

    def add(function: Kind) -> Kind:
        for place in places:
            place.append(function)
        return function

    return add


def chain(draw: Draw, kinds: list[Kind], x: Tensor, most: int, least: int = 0) -> tuple[nn.Sequential, Tensor]:
    """`least` to `most` blocks one after the other, and what they make of `x`."""
    layers = nn.Sequential()
    for one in draw(st.lists(st.sampled_from(kinds), min_size=least, max_size=most)):
        layers.append(one(draw, x))
        x = layers[-1](x)
    return layers, x


def divisors(number: int) -> st.SearchStrategy[int]:
    return st.sampled_from([n for n in range(1, number + 1) if number % n == 0])


def _conv(inner: int, outer: int, size: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, size, padding=size // 2, **options)


# ---- anything ----


@kind(IMAGE, SEQUENCE, ROW)
def activation(draw: Draw, x: Tensor) -> nn.Module:
    return draw(st.sampled_from(_ACTIVATIONS))()


@kind(IMAGE, ROW)
def batch_norm(draw: Draw, x: Tensor) -> nn.Module:
    options = {"affine": draw(st.booleans()), "track_running_stats": draw(st.sampled_from([True, True, False]))}
    return (nn.BatchNorm2d if x.dim() == 4 else nn.BatchNorm1d)(x.shape[1], **options)


@kind(SEQUENCE, ROW)
def layer_norm(draw: Draw, x: Tensor) -> nn.Module:
    return draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm]))(x.shape[-1])


@kind(SEQUENCE, ROW)
def linear(draw: Draw, x: Tensor) -> nn.Module:
    return nn.Linear(x.shape[-1], draw(widths), bias=draw(st.booleans()))


@kind(SEQUENCE, ROW)
def perceptron(draw: Draw, x: Tensor) -> nn.Module:
    """Two layers and a residual."""
    hidden, width = draw(widths), x.shape[-1]
    return Block(
        lambda self, x: x + self.back(self.act(self.hidden(x))),
        hidden=nn.Linear(width, hidden),
        act=activation(draw, x),
        back=nn.Linear(hidden, width),
    )


@kind(SEQUENCE, ROW)
def gated_perceptron(draw: Draw, x: Tensor) -> nn.Module:
    """SwiGLU and its relatives: the halves of one layer, or two layers."""
    hidden, width = draw(widths), x.shape[-1]
    way = draw(st.sampled_from(["glu", "chunk", "split", "slice", "two"]))

    def forward(self: Block, x: Tensor) -> Tensor:
        if way == "two":
            return self.back(F.silu(self.gate(x)) * self.up(x))
        both = self.up(x)
        if way == "glu":
            return self.back(F.glu(both, dim=-1))
        if way == "chunk":
            a, b = both.chunk(2, dim=-1)
        elif way == "split":
            a, b = both.split(both.shape[-1] // 2, dim=-1)
        else:
            half = both.size(-1) // 2
            a, b = both[..., :half], both[..., half:]
        return self.back(F.silu(a) * b)

    up = nn.Linear(width, hidden if way == "two" else 2 * hidden)
    parts = {"gate": nn.Linear(width, hidden)} if way == "two" else {}
    return Block(forward, up=up, **parts, back=nn.Linear(hidden, draw(widths)), way=way)


@kind(IMAGE, SEQUENCE, ROW)
def residual(draw: Draw, x: Tensor) -> nn.Module:
    """Some blocks, a projection back to the width of the input, and the input added."""
    inner, y = chain(draw, _of(x), x, 2)
    return Block(lambda self, x: x + self.back(self.inner(x)), inner=inner, back=project(y, _width(x)))


@kind(IMAGE, SEQUENCE, ROW)
def concatenated(draw: Draw, x: Tensor) -> nn.Module:
    """The input and what some blocks make of it, in either order."""
    inner, _ = chain(draw, _of(x), x, 2)
    first, dim = draw(st.booleans()), _channel_dim(x)
    return Block(
        lambda self, x: torch.cat([x, self.inner(x)] if first else [self.inner(x), x], dim), inner=inner, first=first
    )


@kind(IMAGE, SEQUENCE, ROW)
def split_in_two(draw: Draw, x: Tensor) -> nn.Module:
    """One part of the channels goes through some blocks, the other around them."""
    width, dim = _width(x), _channel_dim(x)
    if width < 2:
        return nn.Identity()
    part = draw(st.integers(1, width - 1)) if draw(st.booleans()) else width // 2
    way = draw(st.sampled_from(["split", "slice", "narrow", "read"]))

    def forward(self: Block, x: Tensor) -> Tensor:
        if way == "split":
            a, b = x.split([self.part, self.rest], dim)
        elif way == "slice":
            a, b = (x[:, : self.part], x[:, self.part :]) if dim == 1 else (x[..., : self.part], x[..., self.part :])
        elif way == "narrow":
            a, b = x.narrow(dim, 0, self.part), x.narrow(dim, self.part, self.rest)
        else:
            half = x.shape[dim] // 2
            a, b = x.split([half, x.shape[dim] - half], dim)
        return torch.cat([self.inner(a), b], dim)

    front = x.narrow(dim, 0, width // 2 if way == "read" else part)
    inner, _ = chain(draw, _of(x), front, 2)
    return Block(forward, part=part, rest=width - part, way=way, inner=inner)


@kind(IMAGE, SEQUENCE, ROW)
def chunked(draw: Draw, x: Tensor) -> nn.Module:
    """Equal parts, combined again: added, multiplied, concatenated in another order, or the larger taken."""
    width, dim = _width(x), _channel_dim(x)
    parts = draw(divisors(width))
    way = draw(st.sampled_from(["add", "multiply", "turn", "largest"]))

    def forward(self: Block, x: Tensor) -> Tensor:
        pieces = x.chunk(parts, dim)
        if way == "turn":
            return torch.cat([*pieces[1:], pieces[0]], dim)
        total = pieces[0]
        for piece in pieces[1:]:
            if way == "largest":
                total = torch.maximum(total, piece)
            else:
                total = total + piece if way == "add" else total * piece
        return total

    return Block(forward, parts=parts, way=way)


@kind(IMAGE, SEQUENCE, ROW)
def shared_twice(draw: Draw, x: Tensor) -> nn.Module:
    """One projection, applied twice."""
    return Block(lambda self, x: self.same(torch.relu(self.same(x))), same=project(x, _width(x)))


@kind(IMAGE, SEQUENCE, ROW)
def branches(draw: Draw, x: Tensor) -> nn.Module:
    """Two projections of the input, combined."""
    width, dim = draw(widths), _channel_dim(x) % x.dim()
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "add": torch.add,
        "multiply": torch.mul,
        "divide": lambda a, b: a / (1 + b.abs()),
        "largest": torch.maximum,
        "choose": lambda a, b: torch.where(a > 0, a, b),
        "stack": lambda a, b: torch.stack([a, b]).sum(0),
        "interleave": lambda a, b: torch.stack([a, b], dim + 1).flatten(dim, dim + 1),
        "concatenate": lambda a, b: torch.cat([a, b], dim),
    }
    way = draw(st.sampled_from(list(ways)))
    return Block(lambda self, x: ways[way](self.a(x), self.b(x)), a=project(x, width), b=project(x, width), way=way)


@kind(IMAGE, SEQUENCE, ROW)
def scaled(draw: Draw, x: Tensor) -> nn.Module:
    """A learned factor and term per channel."""
    shape = (x.shape[1], 1, 1) if x.dim() == 4 else (x.shape[-1],)
    return Block(
        lambda self, x: x * self.factor + self.term,
        factor=nn.Parameter(torch.ones(shape)),
        term=nn.Parameter(torch.zeros(shape)),
    )


@kind(IMAGE, SEQUENCE, ROW)
def centred(draw: Draw, x: Tensor) -> nn.Module:
    """A norm written by hand over the channels."""
    dim = _channel_dim(x)
    return Block(
        lambda self, x: (x - x.mean(dim, keepdim=True)) / (x.var(dim, keepdim=True, unbiased=False) + 1).sqrt()
    )


@kind(IMAGE, SEQUENCE, ROW)
def reads_values(draw: Draw, x: Tensor) -> nn.Module:
    """Operations that need every channel, then a projection."""
    dim = _channel_dim(x)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "softmax": lambda x: x.softmax(dim),
        "flip": lambda x: x.flip(dim),
        "sort": lambda x: x.sort(dim).values,
        "cumsum": lambda x: x.cumsum(dim),
        "amax": lambda x: x * x.amax(dim, keepdim=True),
        "norm": lambda x: x - x.norm(dim=dim, keepdim=True),
        "normalize": lambda x: F.normalize(x, dim=dim),
    }
    way = draw(st.sampled_from(list(ways)))
    return Block(lambda self, x: self.out(ways[way](x)), out=project(x, draw(widths)), way=way)


@kind(IMAGE, SEQUENCE, ROW)
def counted(draw: Draw, x: Tensor) -> nn.Module:
    """The number of channels serves as a number."""
    dim = _channel_dim(x)
    ways: dict[str, Callable[[Block, Tensor], Tensor]] = {
        "divided": lambda self, x: x / x.shape[dim],
        "multiplied": lambda self, x: x * (x.shape[dim] * 0.1),
        "root": lambda self, x: x * x.shape[dim] ** -0.5,
        "log": lambda self, x: x * math.log(1 + x.shape[dim]),
        "float": lambda self, x: x + 1.0 / x.size(dim),
        "full": lambda self, x: x + torch.full((1,), float(x.shape[dim]), dtype=x.dtype),
        "clamp": lambda self, x: x.clamp(-0.1 * x.shape[dim], 0.1 * x.shape[dim]),
        "alpha": lambda self, x: torch.add(x, x, alpha=x.shape[dim]),
        "remainder": lambda self, x: x * (1 + x.shape[dim] % 3),
    }
    way = draw(st.sampled_from(list(ways)))
    return Block(lambda self, x: ways[way](self, self.inner(x)), inner=project(x, draw(widths)), way=way)


@kind(IMAGE, SEQUENCE, ROW)
def branching(draw: Draw, x: Tensor) -> nn.Module:
    """What runs depends on the number of channels."""
    dim = _channel_dim(x)
    ways: dict[str, Callable[[Block, Tensor], Tensor]] = {
        "large": lambda self, x: x.relu() if x.shape[dim] > 3 else x.tanh() + 1,
        "even": lambda self, x: x.relu() if x.shape[dim] % 2 else x.sigmoid(),
        "equal": lambda self, x: x + self.other(x) if self.other(x).shape == x.shape else x,
        "any": lambda self, x: x * 2 if x.shape[dim] else x,
    }
    way = draw(st.sampled_from(list(ways)))
    width = draw(widths)
    return Block(
        lambda self, x: ways[way](self, self.inner(x)),
        inner=project(x, width),
        other=_projection(x, width, draw(st.sampled_from([width, width + 1]))),
        way=way,
    )


@kind(IMAGE, SEQUENCE, ROW)
def positions_seen(draw: Draw, x: Tensor) -> nn.Module:
    """Operations for which it matters where an element stands, then a projection."""
    dim = _channel_dim(x)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "tril": lambda x: x.tril(),
        "triu": lambda x: x.movedim(dim, -1).triu().movedim(-1, dim),
        "roll": lambda x: x.roll(1),
        "rolled channels": lambda x: x.roll(1, dim),
        "rot90": lambda x: x.rot90(2, (0, dim)),
        "uneven parts": lambda x: torch.cat([part * (1 + n) for n, part in enumerate(x.tensor_split(3, dim))], dim),
        "diff": lambda x: x.diff(dim=dim, prepend=x.narrow(dim, 0, 1)),
    }
    way = draw(st.sampled_from(list(ways)))
    inner = draw(widths)
    return Block(
        lambda self, x: self.out(ways[way](self.inner(x))),
        inner=project(x, inner),
        out=_projection(x, inner, draw(widths)),
        way=way,
    )


@kind(IMAGE, SEQUENCE, ROW)
def computed_weight(draw: Draw, x: Tensor) -> nn.Module:
    """A projection by a weight that is computed from a parameter."""
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "squashed": lambda w: w.tanh(),
        "shifted": lambda w: w + 0.5,
        "standardised": lambda w: (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True, correction=0) + 0.1),
        "normal": lambda w: F.normalize(w, dim=1),
        "shared": lambda w: w * w.abs().mean(),
    }
    way = draw(st.sampled_from(list(ways)))
    weight = nn.Parameter(torch.randn(draw(widths), _width(x)))
    if x.dim() == 4:
        return Block(lambda self, x: F.conv2d(x, ways[way](self.weight)[:, :, None, None]), weight=weight, way=way)
    return Block(lambda self, x: F.linear(x, ways[way](self.weight)), weight=weight, way=way)


@kind(IMAGE, SEQUENCE, ROW)
def written_in_place(draw: Draw, x: Tensor) -> nn.Module:
    """A view of the activation, or a detached one, is written into."""
    dim = _channel_dim(x)

    def through_view(self: Block, x: Tensor) -> Tensor:
        y = self.inner(x)
        y.transpose(0, dim).mul_(0.5).add_(self.shift)
        return y

    def through_detached(self: Block, x: Tensor) -> Tensor:
        y = self.inner(x)
        y.detach().add_(self.shift)
        return y

    def one_channel(self: Block, x: Tensor) -> Tensor:
        y = self.inner(x).clone()
        y.select(dim, 0).zero_()
        return y

    def copied(self: Block, x: Tensor) -> Tensor:
        y = torch.empty_like(self.inner(x))
        y.copy_(self.inner(x))
        return y

    way = draw(st.sampled_from([through_view, through_detached, one_channel, copied]))
    return Block(way, inner=project(x, draw(widths)), shift=draw(st.sampled_from([0.0, 0.5])))


@kind(IMAGE, SEQUENCE, ROW)
def measured(draw: Draw, x: Tensor) -> nn.Module:
    """Divided by a norm over the channels, of one order or another."""
    dim = _channel_dim(x)
    order = draw(st.sampled_from([0.5, 1.0, 2.0, 3.0, math.inf, -math.inf]))
    return Block(
        lambda self, x: self.inner(x) / (1 + self.inner(x).norm(p=order, dim=dim, keepdim=True)),
        inner=project(x, draw(widths)),
        order=str(order),
    )


@kind(IMAGE, SEQUENCE, ROW)
def powers(draw: Draw, x: Tensor) -> nn.Module:
    """Element-wise operations that keep zero, and ones that do not."""
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "square": lambda x, y: x**2,
        "inverse": lambda x, y: (x.abs() + 1) ** -1,
        "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5),
        "addcdiv": lambda x, y: torch.addcdiv(x, y, y.abs() + 1),
        "remainder": lambda x, y: x.remainder(1.5),
        "maximum": lambda x, y: torch.maximum(x, y),
        "where": lambda x, y: torch.where(x > 0.1, x, y),
        "lerp": lambda x, y: x.lerp(y, 0.3),
        "true": lambda x, y: x + (y > 0),
        "exp": lambda x, y: (x.clamp(-2, 2)).exp() - 1,
    }
    way = draw(st.sampled_from(list(ways)))
    width = draw(widths)
    return Block(
        lambda self, x: ways[way](self.one(x), self.two(x)), one=project(x, width), two=project(x, width), way=way
    )


@kind(IMAGE, SEQUENCE, ROW)
def chosen_by_index(draw: Draw, x: Tensor) -> nn.Module:
    """Channels are taken, or added up, by the numbers in a buffer; then a projection."""
    dim = _channel_dim(x)
    inner = draw(widths)
    ways: dict[str, Callable[[Block, Tensor], Tensor]] = {
        "select": lambda self, x: x.index_select(dim, self.index),
        "add": lambda self, x: torch.zeros_like(x).index_add(dim, self.index, x),
        "take": lambda self, x: x.movedim(dim, -1)[..., self.index].movedim(-1, dim),
    }
    way = draw(st.sampled_from(list(ways)))
    block = Block(
        lambda self, x: self.out(ways[way](self, self.inner(x))),
        inner=project(x, inner),
        out=_projection(x, inner, draw(widths)),
        way=way,
    )
    block.register_buffer("index", torch.arange(inner).flip(0))
    return block


def _projection(x: Tensor, inner: int, outer: int) -> nn.Module:
    """A projection of something shaped like `x`, but `inner` channels wide."""
    return _conv(inner, outer) if x.dim() == 4 else nn.Linear(inner, outer)


def _of(x: Tensor) -> list[Kind]:
    return {4: IMAGE, 3: SEQUENCE, 2: ROW}[x.dim()]


def _channel_dim(x: Tensor) -> int:
    return 1 if x.dim() == 4 else -1


def _width(x: Tensor) -> int:
    return x.shape[_channel_dim(x)]


def project(x: Tensor, width: int) -> nn.Module:
    return _conv(x.shape[1], width) if x.dim() == 4 else nn.Linear(x.shape[-1], width)


# ---- images ----


@kind(IMAGE)
def convolution(draw: Draw, x: Tensor) -> nn.Module:
    """Plain or dilated."""
    size, dilation = draw(st.sampled_from([(1, 1), (3, 1), (3, 2)]))
    return nn.Conv2d(
        x.shape[1], draw(widths), size, padding=dilation * (size // 2), dilation=dilation, bias=draw(st.booleans())
    )


@kind(IMAGE)
def grouped_convolution(draw: Draw, x: Tensor) -> nn.Module:
    """As many groups as drawn, up to depthwise."""
    groups = draw(divisors(x.shape[1]))
    return _conv(x.shape[1], groups * draw(st.integers(1, 3)), 3, groups=groups, bias=draw(st.booleans()))


@kind(IMAGE)
def depthwise_separable(draw: Draw, x: Tensor) -> nn.Module:
    channels = x.shape[1]
    return nn.Sequential(
        _conv(channels, channels, 3, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        activation(draw, x),
        _conv(channels, draw(widths)),
    )


@kind(IMAGE)
def transposed_convolution(draw: Draw, x: Tensor) -> nn.Module:
    groups = draw(divisors(x.shape[1]))
    outer = groups * draw(st.integers(1, 3))
    return nn.ConvTranspose2d(x.shape[1], outer, 3, padding=1, groups=groups, bias=draw(st.booleans()))


@kind(SHRINKING)
def strided(draw: Draw, x: Tensor) -> nn.Module:
    return _conv(x.shape[1], draw(widths), 3, stride=2)


@kind(SHRINKING)
def upsampled(draw: Draw, x: Tensor) -> nn.Module:
    if x.shape[-1] > 4:
        return nn.AvgPool2d(2)
    if draw(st.booleans()):
        return nn.Upsample(scale_factor=2, mode=draw(st.sampled_from(["nearest", "bilinear"])))
    return nn.ConvTranspose2d(x.shape[1], draw(widths), 2, stride=2)


@kind(SHRINKING)
def pooled(draw: Draw, x: Tensor) -> nn.Module:
    if x.shape[-1] < 3:
        return nn.Identity()
    return draw(st.sampled_from([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2)]))


@kind(SHRINKING)
def pixels_shuffled(draw: Draw, x: Tensor) -> nn.Module:
    if x.shape[1] % 4 == 0 and x.shape[-1] < 4:
        return nn.PixelShuffle(2)
    return nn.PixelUnshuffle(2) if x.shape[-1] % 2 == 0 and x.shape[1] < 5 else nn.Identity()


@kind(IMAGE)
def group_norm(draw: Draw, x: Tensor) -> nn.Module:
    return nn.GroupNorm(draw(divisors(x.shape[1])), x.shape[1], affine=draw(st.booleans()))


@kind(IMAGE)
def instance_norm(draw: Draw, x: Tensor) -> nn.Module:
    if x.shape[-1] < 2:
        return nn.Identity()
    return nn.InstanceNorm2d(
        x.shape[1], affine=draw(st.booleans()), track_running_stats=draw(st.sampled_from([False, False, True]))
    )


@kind(IMAGE)
def channels_last_norm(draw: Draw, x: Tensor) -> nn.Module:
    """Layer norm over the channels, and a linear layer there, as in ConvNeXt."""
    return Block(
        lambda self, x: self.out(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
        norm=nn.LayerNorm(x.shape[1]),
        out=nn.Linear(x.shape[1], draw(widths)),
    )


@kind(IMAGE)
def shuffled(draw: Draw, x: Tensor) -> nn.Module:
    """A channel shuffle, by torch's module or written out, sizes from attributes or from the tensor."""
    groups = draw(divisors(x.shape[1]))
    if draw(st.booleans()):
        return nn.ChannelShuffle(groups)
    reads = draw(st.booleans())

    def forward(self: Block, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        each = channels // self.groups if reads else self.each
        x = x.view(batch, self.groups, each, height, width).transpose(1, 2)
        return x.reshape(batch, -1, height, width)

    return Block(forward, groups=groups, each=x.shape[1] // groups, reads=reads)


@kind(IMAGE)
def squeeze_excitation(draw: Draw, x: Tensor) -> nn.Module:
    """With convolutions or with linear layers, for all channels or for groups of them (ResNeSt)."""
    channels, hidden = x.shape[1], draw(widths)
    gate = draw(st.sampled_from([nn.Sigmoid, nn.Hardsigmoid, nn.Tanh]))()
    if draw(st.booleans()):
        return Block(
            lambda self, x: x * self.gate(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))),
            gate=gate,
            reduce=_conv(channels, hidden),
            expand=_conv(hidden, channels),
        )

    def forward(self: Block, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)
        return x * self.gate(self.expand(F.relu(self.reduce(pooled)))).view(x.size(0), x.size(1), 1, 1).expand_as(x)

    return Block(forward, gate=gate, reduce=nn.Linear(channels, hidden), expand=nn.Linear(hidden, channels))


@kind(IMAGE)
def selective_kernels(draw: Draw, x: Tensor) -> nn.Module:
    """Two branches weighted by a softmax between them, channel by channel."""
    width = draw(widths)

    def forward(self: Block, x: Tensor) -> Tensor:
        pair = torch.stack([self.a(x), self.b(x)], dim=1)
        weights = self.choose(pair.sum(1).mean((2, 3))).view(x.shape[0], 2, self.width).softmax(1)
        return (pair * weights[..., None, None]).sum(1)

    return Block(
        forward,
        a=_conv(x.shape[1], width),
        b=_conv(x.shape[1], width, 3),
        choose=nn.Linear(width, 2 * width),
        width=width,
    )


@kind(IMAGE)
def gated_image(draw: Draw, x: Tensor) -> nn.Module:
    return nn.Sequential(_conv(x.shape[1], 2 * draw(widths), 3), nn.GLU(dim=1))


@kind(IMAGE)
def padded_shortcut(draw: Draw, x: Tensor) -> nn.Module:
    """Channels of zeros in front and behind, and a convolution added."""
    low, high = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    return Block(
        lambda self, x: self.out(x) + F.pad(x, (0, 0, 0, 0, low, high)), out=_conv(x.shape[1], x.shape[1] + low + high)
    )


@kind(IMAGE)
def spatial_gate(draw: Draw, x: Tensor) -> nn.Module:
    """Mean and largest over the channels make a mask, as in CBAM."""
    return Block(
        lambda self, x: x * self.mask(torch.cat([x.mean(1, keepdim=True), x.sum(1, keepdim=True)], 1)).sigmoid(),
        mask=_conv(2, 1, 3),
    )


@kind(IMAGE)
def image_attention(draw: Draw, x: Tensor) -> nn.Module:
    """Attention between positions, queries, keys and values from one convolution; linear or with a softmax."""
    heads, width, positions = draw(st.integers(1, 3)), draw(st.integers(1, 3)), x.shape[2] * x.shape[3]
    softmax = draw(st.booleans())

    def forward(self: Block, x: Tensor) -> Tensor:
        batch, _, height, breadth = x.shape
        q, k, v = self.qkv(x).reshape(batch, 3, self.heads, self.head_dim, height * breadth).unbind(1)
        if softmax:
            mixed = v @ (q.transpose(-2, -1) @ k).softmax(-1).transpose(-2, -1)
        else:
            mixed = (v @ k.transpose(-2, -1)) @ q / positions
        return self.out(mixed.reshape(batch, -1, height, breadth))

    inner = heads * width
    return Block(
        forward,
        qkv=_conv(x.shape[1], 3 * inner),
        out=_conv(inner, draw(widths)),
        heads=heads,
        head_dim=width,
        softmax=softmax,
    )


# ---- sequences ----


def _mix(fused: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if fused:
        return F.scaled_dot_product_attention(q, k, v)
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v


@kind(SEQUENCE)
def packed_attention(draw: Draw, x: Tensor) -> nn.Module:
    """Queries, keys and values from one layer, in three layouts."""
    heads, head_dim, fused = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.booleans())
    layout = draw(st.sampled_from(["parts first", "parts last", "chunk", "split"]))
    inner = heads * head_dim

    def forward(self: Block, x: Tensor) -> Tensor:
        batch, n, _ = x.shape
        qkv = self.qkv(x)
        if layout == "parts first":
            q, k, v = qkv.reshape(batch, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        elif layout == "parts last":
            q, k, v = qkv.view(batch, n, self.heads, 3 * self.head_dim).transpose(1, 2).chunk(3, dim=-1)
        else:
            parts = qkv.chunk(3, dim=-1) if layout == "chunk" else qkv.split(self.inner, dim=2)
            q, k, v = (part.view(batch, n, self.heads, self.head_dim).transpose(1, 2) for part in parts)
        return self.out(_mix(fused, q, k, v).transpose(1, 2).reshape(batch, n, self.inner))

    return Block(
        forward,
        qkv=nn.Linear(x.shape[-1], 3 * inner, bias=draw(st.booleans())),
        out=nn.Linear(inner, x.shape[-1]),
        heads=heads,
        head_dim=head_dim,
        inner=inner,
        layout=layout,
    )


class InputWidth(nn.Module):
    """Attention whose code takes the width of the input for that of all heads, as many vision transformers do."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, n, width = x.shape
        qkv = self.qkv(x).reshape(batch, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        else:
            mixed = (qkv[0] * (width // self.heads) ** -0.5 @ qkv[1].transpose(-2, -1)).softmax(-1) @ qkv[2]
        return self.proj(mixed.transpose(1, 2).reshape(batch, n, width))


@kind(SEQUENCE)
def input_width_attention(draw: Draw, x: Tensor) -> nn.Module:
    return InputWidth(x.shape[-1], draw(divisors(x.shape[-1])), draw(st.booleans()))


@kind(SEQUENCE)
def separate_attention(draw: Draw, x: Tensor) -> nn.Module:
    """A layer each for queries, keys and values; fewer key-value heads than query heads, values of another width."""
    groups, per_group, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    value_dim, fused = draw(st.integers(1, 3)), draw(st.booleans())
    heads, width = groups * per_group, x.shape[-1]

    def forward(self: Block, x: Tensor) -> Tensor:
        batch, n, _ = x.shape
        q = self.q(x).view(batch, n, -1, self.head_dim).transpose(1, 2)
        k = self.k(x).view(batch, n, -1, self.head_dim).transpose(1, 2)
        v = self.v(x).view(batch, n, -1, self.value_dim).transpose(1, 2)
        if self.per_group > 1:
            k, v = (_repeat_heads(tensor, self.per_group) for tensor in (k, v))
        return self.out(_mix(fused, q, k, v).transpose(1, 2).flatten(2))

    return Block(
        forward,
        q=nn.Linear(width, heads * head_dim),
        k=nn.Linear(width, groups * head_dim, bias=False),
        v=nn.Linear(width, groups * value_dim),
        out=nn.Linear(heads * value_dim, draw(widths)),
        head_dim=head_dim,
        value_dim=value_dim,
        per_group=per_group,
    )


def _repeat_heads(tensor: Tensor, times: int) -> Tensor:
    """Every key-value head as often as it has query heads, as Llama's code does it."""
    batch, heads, n, width = tensor.shape
    return tensor[:, :, None].expand(batch, heads, times, n, width).reshape(batch, heads * times, n, width)


@kind(SEQUENCE)
def torch_attention(draw: Draw, x: Tensor) -> nn.Module:
    width, batch_first, bias = x.shape[-1], draw(st.booleans()), draw(st.booleans())
    return Block(
        lambda self, x: x + self.attention(x, x, x, need_weights=self.weights)[0],
        attention=nn.MultiheadAttention(width, draw(divisors(width)), batch_first=batch_first, bias=bias),
        weights=draw(st.booleans()),
    )


@kind(SEQUENCE)
def encoder_layer(draw: Draw, x: Tensor) -> nn.Module:
    return nn.TransformerEncoderLayer(
        x.shape[-1], draw(divisors(x.shape[-1])), draw(widths), 0.0, batch_first=True, norm_first=draw(st.booleans())
    )


@kind(SEQUENCE)
def recurrent(draw: Draw, x: Tensor) -> nn.Module:
    """One layer that reads the sequence, in one direction or both, from its own initial state or a learned one."""
    layer = draw(st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]))
    hidden, both = draw(st.integers(2, 5)), draw(st.booleans())
    made = layer(x.shape[-1], hidden, batch_first=True, bidirectional=both)
    return Block(lambda self, x: self.layer(x)[0], layer=made)


@kind(SEQUENCE)
def einsum_projection(draw: Draw, x: Tensor) -> nn.Module:
    heads, width = draw(st.integers(1, 3)), draw(widths)
    return Block(
        lambda self, x: torch.einsum("bnc,hcd->bnhd", x, self.weight).flatten(2),
        weight=nn.Parameter(torch.randn(heads, x.shape[-1], width)),
    )


@kind(SEQUENCE)
def mixed_positions(draw: Draw, x: Tensor) -> nn.Module:
    """A perceptron over positions, as in MLP-Mixer."""
    hidden = draw(widths)
    return Block(
        lambda self, x: x + self.back(F.gelu(self.hidden(x.transpose(1, 2)))).transpose(1, 2),
        hidden=nn.Linear(x.shape[1], hidden),
        back=nn.Linear(hidden, x.shape[1]),
    )


@kind(SEQUENCE)
def positions_added(draw: Draw, x: Tensor) -> nn.Module:
    return Block(lambda self, x: x + self.table[:, : x.shape[1]], table=nn.Parameter(torch.zeros(1, *x.shape[1:])))


@kind(LENGTHENING)
def token_added(draw: Draw, x: Tensor) -> nn.Module:
    """A learned token in front of the others."""
    return Block(
        lambda self, x: torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1),
        token=nn.Parameter(torch.zeros(1, 1, x.shape[-1])),
    )


@kind(SEQUENCE)
def convolution_over_positions(draw: Draw, x: Tensor) -> nn.Module:
    groups = draw(divisors(x.shape[-1]))
    return Block(
        lambda self, x: self.conv(x.transpose(1, 2)).transpose(1, 2),
        conv=nn.Conv1d(x.shape[-1], groups * draw(st.integers(1, 3)), 3, padding=1, groups=groups),
    )


# ---- rows ----


@kind(ROW)
def outer_product(draw: Draw, x: Tensor) -> nn.Module:
    """Every pair of two projections, flattened: bilinear pooling."""
    return Block(
        lambda self, x: (self.a(x)[:, :, None] * self.b(x)[:, None, :]).flatten(1),
        a=nn.Linear(x.shape[-1], draw(st.integers(1, 3))),
        b=nn.Linear(x.shape[-1], draw(st.integers(1, 3))),
    )


@kind(ROW)
def unflattened(draw: Draw, x: Tensor) -> nn.Module:
    """The row as a few positions, a linear layer on each, flattened again."""
    parts = draw(divisors(x.shape[-1]))
    way = draw(st.sampled_from(["attribute", "-1", "literal"]))
    each = x.shape[-1] // parts

    def forward(self: Block, x: Tensor) -> Tensor:
        sizes = {"attribute": (self.parts, self.each), "-1": (self.parts, -1), "literal": (-1, each)}[way]
        return self.linear(x.unflatten(1, sizes)).reshape(x.shape[0], -1)

    return Block(forward, linear=nn.Linear(each, draw(st.integers(1, 3))), parts=parts, each=each, way=way)
