"""Rules for operations of the user's own: what docs/rules.md shows, run as it stands, and what it promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.errors import TraceError
from icycle.tracing import _registry
from proof import prove, reasons, sizes

DOCS = Path(__file__).parents[1] / "docs" / "rules.md"
ROW = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _forget_rules() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = dict(_registry._rules), dict(_registry.AUTOGRAD_RULES)
    yield
    for registry, own in zip((_registry._rules, _registry.AUTOGRAD_RULES), before, strict=True):
        registry.clear()
        registry.update(own)  # type: ignore[arg-type]


class Between(nn.Module):
    """An operation between two linear layers."""

    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 10), nn.Linear(10, 2)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operation(self.first(x).relu()))


# ---- operations of torch.library ----


@torch.library.custom_op("icycle_rules::swish", mutates_args=())
def swish(x: Tensor, slope: Tensor) -> Tensor:
    """x (batch, channels), slope (channels)."""
    return x * torch.sigmoid(x * slope)


swish.register_fake(lambda x, slope: torch.empty_like(x))


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x, slope = ctx.saved_tensors
    gate = torch.sigmoid(x * slope)
    slopes = gate * (1 - gate)
    return gradient * (gate + x * slope * slopes), (gradient * x * x * slopes).sum(0)


swish.register_autograd(_gradient, setup_context=_remember)


class Swish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.rand(10))

    def forward(self, x: Tensor) -> Tensor:
        return swish(x, self.slope)


def _swish_rule(tracer: Any, operation: Any, args: Any, kwargs: Any, result: Tensor) -> None:
    x, slope = tracer.info(args[0]), tracer.info(args[1])
    tracer.unify(x.dims[1], slope.dims[0])
    tracer.role(slope.dims[0], "scale")
    tracer.give(result, x.dims, x.zero)


def test_an_operation_without_a_rule_pins_and_is_counted_once() -> None:
    swishes = nn.Sequential(Swish(), Swish())
    structure = prove(Between(swishes), ROW)
    assert not structure.prunable
    assert structure.unknown_operations == {"icycle_rules::swish": 2}


def test_an_operation_with_a_rule_loses_channels() -> None:
    icycle.register_rule("icycle_rules::swish")(_swish_rule)
    structure = prove(Between(Swish()), ROW)
    assert sizes(structure) == {"first": 10}, reasons(structure)
    assert structure["first"].exact
    assert "operation.slope" in structure["first"].members
    assert structure.unknown_operations == {}


def test_a_wrong_rule_is_found_out() -> None:
    """A rule that leaves the slopes out; the operation's stand-in on tensors without data does not notice."""

    @icycle.register_rule("icycle_rules::swish")
    def forgets_slopes(tracer: Any, operation: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        x = tracer.info(args[0])
        tracer.give(result, x.dims, x.zero)

    assert icycle.trace(Between(Swish()), ROW, proof="shapes").prunable
    group = icycle.trace(Between(Swish()), ROW)["first"]
    assert "the model does not run, by a trial" in group.reason


# ---- autograd functions ----


class Cubed(torch.autograd.Function):
    """Made of torch's operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * gradient * x**2


class Halved(torch.autograd.Function):
    """Leaves torch: what numpy does is not seen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(np.divide(x.detach().numpy(), 2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / 2


class Doubled(torch.autograd.Function):
    """Leaves torch, and sets up its context on its own."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.from_numpy(np.multiply(x.detach().numpy(), 2))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


KEPT_APPLY = Halved.apply  # as code often does: the rule must see this call too


def _keeps_dimensions(tracer: Any, operation: Any, args: Any, kwargs: Any, result: Tensor) -> None:
    x = tracer.info(args[0])
    tracer.give(result, x.dims, x.zero)


def test_an_autograd_function_is_seen_through() -> None:
    assert sizes(prove(Between(Cubed.apply), ROW)) == {"first": 10}


@pytest.mark.parametrize("function", [Halved, Doubled])
def test_what_is_not_seen_is_not_removed(function: type[torch.autograd.Function]) -> None:
    assert not prove(Between(function.apply), ROW).prunable


@pytest.mark.parametrize(("function", "apply"), [(Halved, KEPT_APPLY), (Doubled, Doubled.apply)])
def test_an_autograd_function_with_a_rule_loses_channels(function: type[torch.autograd.Function], apply: Any) -> None:
    icycle.register_rule(function)(_keeps_dimensions)
    forward = vars(function)["forward"]
    structure = prove(Between(apply), ROW)
    assert sizes(structure) == {"first": 10}, reasons(structure)
    assert structure["first"].exact
    assert vars(function)["forward"] is forward  # exchanged only while a trace runs


def test_a_rule_for_an_autograd_function_hides_what_it_is_made_of() -> None:
    @icycle.register_rule(Cubed)
    def pins(tracer: Any, operation: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        x = tracer.info(args[0])
        tracer.pin(x.dims[1], "no removal wanted")
        tracer.give(result, x.dims, x.zero)

    reason = icycle.trace(Between(Cubed.apply), ROW)["first"].reason
    assert re.match(r"no removal wanted: autograd::Cubed at the model itself \(test_custom_rule\.py:\d+\)", reason)


# ---- the edge ----


@pytest.mark.parametrize("wrong", [Between, 3, torch.add])
def test_what_cannot_have_a_rule_is_refused(wrong: Any) -> None:
    with pytest.raises(TraceError, match=r"torch\.autograd\.Function"):
        icycle.register_rule(wrong)


def test_the_documented_examples_work() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 2, 1)
            self.strength = nn.Parameter(torch.rand(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(names["Halved"].apply(names["gate"](self.first(x), self.strength)))

    structure = icycle.trace(Gated(), torch.randn(2, 3, 5))
    assert sizes(structure) == {"first": 8}, reasons(structure)
    assert structure["first"].exact
