"""State that a forward changes, tensors in several places, casts, and inputs and outputs of every kind."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversary import Case, direct

# ---- state, sharing and casts ----


class _Counting(nn.Module):
    """Buffers that a forward updates: a moving average, a count, a history."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.last, self.way = nn.Linear(5, 8), nn.Linear(8, 3), way
        self.register_buffer("average", torch.randn(8))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("history", torch.randn(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.way == "average":
            self.average.mul_(0.9).add_(y.mean(0), alpha=0.1)
            return self.last(y - self.average)
        if self.way == "reassigned":
            self.average = 0.9 * self.average + 0.1 * y.sigmoid().mean(0)
            return self.last(y - self.average)
        if self.way == "count":
            self.count += 1
            return self.last(y / self.count)
        if self.way == "history":
            self.history = torch.cat([self.history, y])[-6:]
            return self.last(y) + self.last(self.history.mean(0))
        if self.way == "written":
            self.history[:4] = y
            return self.last(self.history.sum(0))
        self.history.copy_(self.history.roll(1, 0))
        return self.last(y + self.history[:4])


class _Shares(nn.Module):
    """One tensor or module in several places."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        if way == "transposed":
            self.c.weight = nn.Parameter(self.a.weight.detach())
        elif way == "twins":
            self.b2 = nn.Linear(8, 8)
            self.b2.weight = self.b.weight
        elif way == "biases":
            self.b.bias = self.a.bias
        elif way == "table":
            self.blocks = nn.ModuleDict({"x": self.b, "y": self.b})
        self.plain = [self.b]

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.way == "transposed":
            return F.linear(y.sigmoid(), self.a.weight.T) + F.linear(y, self.a.weight.T.exp())
        if self.way == "twins":
            return self.c(self.b2(self.b(y).relu()).sigmoid())
        if self.way == "loop":
            for _ in range(3):
                y = y + self.b(y).tanh()
            return self.c(y)
        if self.way == "table":
            return self.c(self.blocks["x"](y) * self.blocks["y"](y.sigmoid()))
        if self.way == "list":
            return self.c(self.plain[0](y.exp()))
        return self.c(self.b(y).sigmoid())


class _Casts(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.way = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3), way

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.way == "off":
            with torch.autocast("cpu", enabled=False):
                return self.last(self.middle(y).sigmoid())
        if self.way == "single":
            return self.last(self.middle(y).float().exp().double())
        if self.way == "bits":
            return self.last(self.middle(y.view(torch.int64).view(torch.float64)))
        if self.way == "narrow_bits":
            return self.last(self.middle(y)) + y.view(torch.float32).double().sum(1, keepdim=True)
        if self.way == "integers":
            return self.last(self.middle((y * 10).round().long().double()))
        if self.way == "complex":
            return self.last(torch.view_as_real(torch.polar(self.middle(y).exp(), self.middle(y)))[..., 1])
        if self.way == "complex_parts":
            return self.last((self.middle(y) * 1j).imag.contiguous())
        if self.way == "quantised":
            return self.last(torch.fake_quantize_per_tensor_affine(self.middle(y).float(), 0.1, 3, -128, 127).double())
        return self.last(
            torch.fake_quantize_per_channel_affine(
                self.middle(y).float(), torch.full((6,), 0.1), torch.full((6,), 3, dtype=torch.int32), 1, -128, 127
            ).double()
        )


STATE = [
    *(
        Case(f"counting-{w}", direct(lambda w=w: _Counting(w), 4, 5))
        for w in ("average", "reassigned", "count", "history", "written", "rolled")
    ),
    *(
        Case(f"shares-{w}", direct(lambda w=w: _Shares(w), 4, 5))
        for w in ("transposed", "twins", "biases", "loop", "table", "list")
    ),
    *(
        Case(f"casts-{w}", direct(lambda w=w: _Casts(w), 4, 5))
        for w in ("off", "bits", "narrow_bits", "integers", "complex", "complex_parts")
    ),
    *(
        Case(f"casts-{w}", direct(lambda w=w: _Casts(w), 4, 5), unseen="computed in 32 bits or fewer")
        for w in ("single", "quantised", "quantised_channels")
    ),
]

# ---- inputs and outputs of every kind ----

_Pair = namedtuple("_Pair", "one two")


@dataclass
class _Answer:
    logits: Tensor
    hidden: Any = None
    extra: dict[str, Any] = field(default_factory=dict)


class _Record(OrderedDict):  # type: ignore[type-arg]
    """As the outputs of Hugging Face's models: a dict with attributes."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class _Returns(nn.Module):
    def __init__(self, way: Any) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.way = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3), way

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        z = self.middle(y.sigmoid())
        return self.way(y, z, self.last(z))


OUTPUTS = [
    Case(f"returns-{name}", direct(lambda way=way: _Returns(way), 4, 5))
    for name, way in {
        "pair": lambda y, z, out: _Pair(out, z.exp().sum(1)),
        "answer": lambda y, z, out: _Answer(out, (y.cos().sum(1), [z.amax(1)])),
        "answer_within": lambda y, z, out: {"a": _Answer(out, None, {"b": y.mean(1)})},
        "record": lambda y, z, out: _Record(logits=out, hidden=(y.sum(1), z[:, :2])),
        "nothing_of_it": lambda y, z, out: (out.detach(), None, "text", {"n": 3}),
        "size": lambda y, z, out: (out, y.shape[1]),
        "size_of_shape": lambda y, z, out: {"logits": out, "shape": tuple(z.shape)},
        "size_computed": lambda y, z, out: (out, y.shape[1] // 2, 1 / z.shape[1]),
        "list_of_rows": lambda y, z, out: list(out.unbind(0)),
        "set_of_sums": lambda y, z, out: {"sums": [y.sum(), z.sigmoid().sum()]},
        "number": lambda y, z, out: (out, y.exp().sum().item()),
        "array": lambda y, z, out: (out, z.detach().sum(1).numpy()),
    }.items()
]


class _Takes(nn.Module):
    def __init__(self, way: Any, width: int = 5) -> None:
        super().__init__()
        self.first, self.last, self.way = nn.Linear(width, 8), nn.Linear(8, 3), way

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.last(self.way(self.first, *args, **kwargs))


def _takes(way: Any, inputs: Any) -> Any:
    return lambda: (_Takes(way), inputs)


INPUTS = [
    Case("takes-nested", _takes(lambda f, x: sum(f(t) for t in x), ([torch.randn(4, 5), torch.randn(4, 5)],))),
    Case(
        "takes-words",
        _takes(
            lambda f, *, x, mask: f(x).masked_fill(mask, 0.5),
            {"x": torch.randn(4, 5), "mask": torch.ones(4, 1).tril().bool()},
        ),
    ),
    Case(
        "takes-flag", _takes(lambda f, x, flag: f(x).exp() if flag else f(x), (torch.randn(4, 5), torch.tensor(True)))
    ),
    Case("takes-index", _takes(lambda f, x, i: f(x)[i].cos(), (torch.randn(4, 5), torch.tensor([0, 2, 2])))),
    Case(
        "takes-mask",
        _takes(lambda f, x, i: f(x)[i].cos(), (torch.randn(4, 5), torch.tensor([True, False, True, True]))),
    ),
    Case(
        "takes-lengths",
        _takes(
            lambda f, x, n: torch.stack([f(x)[:k].mean(0) for k in n.tolist()]),
            (torch.randn(4, 5), torch.tensor([1, 3])),
        ),
    ),
    Case("takes-channels", _takes(lambda f, x, i: f(x)[:, i].repeat(1, 4), (torch.randn(4, 5), torch.tensor([1, 3])))),
    Case("takes-scale", _takes(lambda f, x, s: f(x) * s, (torch.randn(4, 5), torch.randn(8)))),
    Case("takes-none", _takes(lambda f, x, s=None: f(x) if s is None else s, (torch.randn(4, 5), None))),
]


CASES: list[Case] = [*STATE, *OUTPUTS, *INPUTS]
