"""What the functions, methods and globals hold that a model keeps or calls: seen in the trace, and left as it was."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.errors import TraceError
from icycle.testing import removal_error
from networks import differences, snapshot
from proof import sizes

IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Counting(nn.Conv2d):
    """A convolution that counts its calls and keeps what it last gave."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.calls = 0
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = super().forward(x)
        return self.last


class Held(nn.Module):
    """A network whose inner part is reached only through what `hold(self)` gave; `unused` has it run in training."""

    def __init__(self, hold: Callable[[Any], Any]) -> None:
        super().__init__()
        self.first = Counting(3, 8)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)
        self.unused = nn.Linear(2, 2)
        self.held = hold(self)

    def part(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.held(x))


def _recursive(net: Held) -> Any:
    def times(x: Tensor, count: int = 0) -> Tensor:
        return net.part(x) if count == 0 else times(x, count - 1)

    return lambda x: times(x, 2)


def _wrapped(net: Held) -> Any:
    part = net.part

    @functools.wraps(part)
    def wrapper(x: Tensor) -> Tensor:
        return part(x)

    return wrapper


class _Caller:
    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


class _Weak:
    def __init__(self, net: Held) -> None:
        self.net = weakref.ref(net)

    def __call__(self, x: Tensor) -> Tensor:
        net = self.net()
        assert net is not None
        return net.part(x)


def _over_a_pair(net: Held) -> Any:
    pair = (net.first, {"norm": net.norm})
    return lambda x: pair[1]["norm"](pair[0](x)).relu()


HOLDERS: dict[str, Callable[[Held], Any]] = {
    "a lambda over self": lambda net: lambda x: net.part(x),
    "a bound method": lambda net: net.part,
    "a partial of a method": lambda net: functools.partial(net.part),
    "a partial of a lambda": lambda net: functools.partial(lambda x: net.part(x)),
    "a default": lambda net: lambda x, own=net: own.part(x),
    "a keyword default": lambda net: _with_keyword(net),
    "modules in containers": _over_a_pair,
    "a function that calls itself": _recursive,
    "a wrapper of a method": _wrapped,
    "an object that holds a lambda": lambda net: _Caller(lambda x: net.part(x)),
    "a method of an object": lambda net: _Caller(net.part).__call__,
    "a function bound to the model": lambda net: _Caller((lambda self, x: net.part(x)).__get__(net)),
    "a weak reference": lambda net: _Weak(net),
}


def _with_keyword(net: Held) -> Any:
    def call(x: Tensor, *, own: Held = net) -> Tensor:
        return own.part(x)

    return call


@pytest.mark.parametrize("name", HOLDERS)
def test_what_an_attribute_holds_of_the_model_is_traced_and_left_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    net = Held(HOLDERS[name]).double().eval()
    expected = net(IMAGE)
    net.first.last = None
    before, held = snapshot(net), net.held
    structure = icycle.trace(net, IMAGE)
    assert differences(before, snapshot(net)) in ([], ["/held"])  # objects without an equality differ from their copies
    assert net.held is held
    assert torch.equal(net(IMAGE), expected)
    assert sizes(structure) == {"first": 8}
    assert structure["first"].exact


@pytest.mark.parametrize("name", HOLDERS)
def test_pruning_what_is_reached_through_an_attribute(name: str) -> None:
    torch.manual_seed(0)
    net = Held(HOLDERS[name]).double().eval()
    structure = icycle.trace(net, IMAGE)
    subnet = icycle.SubNetwork.random(structure, 0.5)
    assert removal_error(net, IMAGE, subnet, structure=structure) < 1e-12
    icycle.prune(net, structure, subnet)
    assert net(IMAGE).shape == (2, 4, 6, 6)
    assert net.first.weight.shape[0] == 4


class ThroughAGlobal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return original[0].norm(self.first(x))


original: list[ThroughAGlobal] = []


def test_a_model_that_reaches_itself_through_a_global_is_refused() -> None:
    model = ThroughAGlobal()
    original[:] = [model]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TraceError, match="through `self`, but it reaches norm"):
        icycle.trace(model, torch.randn(3, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_compiled_model_is_traced_as_it_is_written() -> None:
    """Its copy makes a function of its own, which holds the copy already."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).double()
    compiled = torch.compile(model, backend="eager")
    structure = icycle.trace(compiled, IMAGE)
    assert sizes(structure) == {"_orig_mod.0": 8}
    icycle.prune(compiled, structure, icycle.SubNetwork.random(structure, 0.5))
    assert compiled(IMAGE).shape == (2, 4, 4, 4)
    assert model[0].weight.shape[0] == 4
