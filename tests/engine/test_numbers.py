"""The proof in numbers catches rules that lie: every rule here is wrong on purpose."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.engine import _trial
from icycle.tracing import _registry
from networks import IMAGE, TOKENS, Branches, Words, differences, snapshot
from proof import sizes

ROW = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _forget_rules() -> Iterator[None]:
    before = dict(_registry._rules)
    yield
    _registry._rules.clear()
    _registry._rules.update(before)


def _library(name: str, run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    @torch.library.custom_op(f"icycle_lies::{name}", mutates_args=())
    def operation(x: Tensor) -> Tensor:
        return run(x)

    operation.register_fake(lambda x: torch.empty_like(x))

    def called(x: Tensor) -> Tensor:  # a function can be copied with the model, an operation not
        return operation(x)

    called.__name__ = name
    return called


rolled = _library("rolled", lambda x: x.roll(1, -1).contiguous())
divided = _library("divided", lambda x: x / x.shape[-1])
picky = _library("picky", lambda x: x.reshape(len(x), 3, 4).flatten(1).clone())
scaled = _library("scaled", lambda x: x * (1 + 1e-8 * x.shape[-1]))


def lie(*names: str) -> None:
    """Register the rule of an elementwise operation that keeps zero."""

    @icycle.register_rule(*(f"icycle_lies::{name}" for name in names))
    def elementwise(tracer: Any, operation: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        x = tracer.info(args[0])
        tracer.give(result, x.dims, x.zero)


class Chain(nn.Module):
    """A linear layer and a function, for every function, and a last linear layer."""

    def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        widths = [6, *(12 + 2 * place for place in range(len(functions)))]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.last = nn.Linear(widths[-1], 2)
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        for layer, function in zip(self.layers, self.functions, strict=True):
            x = function(layer(x))
        return self.last(x)


@pytest.mark.parametrize("operation", [rolled, divided, scaled], ids=["rolled", "divided", "scaled"])
def test_the_group_at_fault_becomes_inexact_and_no_other(operation: Any) -> None:
    lie("rolled", "divided", "scaled")
    model = Chain(torch.relu, operation, torch.relu, torch.relu)
    structure = icycle.trace(model, ROW)
    assert [group.exact for group in structure.prunable] == [True, False, True, True]
    reason = structure["layers.1"].inexact_reason
    assert "removing is not zeroing, by a trial" in str(reason)
    assert f"icycle_lies::{operation.__name__}" in str(reason)
    assert "test_numbers.py" in str(reason)


def test_without_numbers_the_lie_is_believed() -> None:
    lie("rolled")
    structure = icycle.trace(Chain(rolled), ROW, proof="shapes")
    assert structure["layers.0"].exact
    assert structure.proof == "shapes"
    assert (
        icycle.testing.removal_error(Chain(rolled), ROW, icycle.SubNetwork.random(structure, 0.5), structure=structure)
        > 1e-2
    )


def test_all_groups_at_fault_are_found() -> None:
    lie("rolled")
    model = Chain(rolled, torch.relu, rolled, torch.relu, rolled)
    assert [group.exact for group in icycle.trace(model, ROW).prunable] == [False, True, False, True, False]


def test_what_does_not_run_without_its_channels_stays() -> None:
    lie("picky")
    model = Chain(picky, torch.relu)
    structure = icycle.trace(model, ROW)
    assert sizes(structure) == {"layers.1": 14}
    assert "the model does not run, by a trial" in str(structure["layers.0"].reason)
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
    assert model(ROW).shape == (3, 2)


def test_a_scale_that_hides_a_layer_hides_no_lie() -> None:
    class Scaled(Chain):
        def __init__(self) -> None:
            super().__init__(rolled, torch.relu)
            self.gamma = nn.Parameter(torch.full((12,), 1e-9))

        def forward(self, x: Tensor) -> Tensor:
            hidden = rolled(self.layers[0](x)) * self.gamma
            return self.last(self.layers[1](hidden).relu())

    lie("rolled")
    assert not icycle.trace(Scaled(), ROW)["layers.0"].exact


def test_weights_of_zero_hide_nothing() -> None:
    lie("rolled")
    model = Chain(rolled)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert not icycle.trace(model, torch.zeros(3, 6))["layers.0"].exact


def test_a_hundred_layers_hide_nothing() -> None:
    lie("rolled")
    layers: list[nn.Module] = [nn.Linear(6, 16)]
    for _ in range(100):
        layers += [nn.ReLU(), nn.Linear(16, 16)]
    model = nn.Sequential(*layers)

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1:](rolled(self.layers[0](x)))

    structure = icycle.trace(Deep(), ROW)
    assert [group.exact for group in structure.prunable] == [False] + [True] * 99


# ---- what the trial leaves as it was, and what it costs ----


@pytest.mark.parametrize(("build", "inputs"), [(Branches, IMAGE), (Words, TOKENS)])
def test_nothing_is_changed(build: type[nn.Module], inputs: Tensor) -> None:
    model = build().train()
    before, given = snapshot(model), inputs.clone()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    structure = icycle.trace(model, inputs)
    assert structure.proof == "numbers"
    assert (random.random(), np.random.rand(), torch.rand(())) == expected
    assert differences(before, snapshot(model)) == []
    assert torch.equal(inputs, given)
    assert torch.get_default_dtype() == torch.float32


def test_two_traces_say_the_same() -> None:
    lie("rolled", "divided")
    first, second = (str(icycle.trace(Chain(rolled, divided, torch.relu), ROW)) for _ in range(2))
    assert first == second


class Counted(nn.Module):
    """Counts its runs on real numbers."""

    runs: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))
        Counted.runs = []

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta:
            Counted.runs.append(sum(parameter.numel() for parameter in self.parameters()))
        return self.layers(x)


def test_a_large_model_is_run_twice_on_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trial, "_SMALL", (0, 0))
    copies: list[nn.Module] = []
    duplicate = _trial.duplicate
    monkeypatch.setattr(_trial, "duplicate", lambda *args: copies.append(duplicate(*args)) or copies[-1])
    icycle.trace(Counted(), ROW)
    assert len(copies) == 1
    assert Counted.runs == [110, 56]


# ---- where there are no numbers ----


def test_a_model_without_weights_is_proven_over_shapes() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 2))
    structure = icycle.trace(model, torch.randn(3, 6, device="meta"))
    assert structure.proof == "shapes"
    assert "meta device" in structure.notes[-1]


def test_the_user_says_how_large_a_copy_may_be() -> None:
    structure = icycle.trace(Chain(torch.relu), ROW, copy_bytes=100)
    assert structure.proof == "shapes"
    assert "copy_bytes" in structure.notes[-1]


def test_a_model_that_gives_no_numbers_is_proven_over_shapes() -> None:
    structure = icycle.trace(Chain(lambda x: x * float("nan")), ROW)
    assert structure.proof == "shapes"
    assert "not finite" in structure.notes[-1]


@pytest.mark.parametrize("function", [torch.log, torch.sqrt, lambda x: x.abs().log()], ids=["log", "sqrt", "log-abs"])
def test_what_is_not_a_number_for_random_weights(function: Callable[[Tensor], Tensor]) -> None:
    """The model's own weights are all positive."""

    class Positive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Parameter(torch.rand(12, 6) + 0.5), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(function(x @ self.first.t()))

    structure = icycle.trace(Positive(), ROW.abs() + 0.1)
    assert structure.proof == "numbers"


def test_random_numbers_in_a_run_are_no_fault() -> None:
    structure = icycle.trace(Chain(lambda x: nn.functional.dropout(x, 0.5, training=True), torch.relu), ROW)
    assert [group.exact for group in structure.prunable] == [True, True]


def test_code_that_insists_on_its_type_is_run_in_it() -> None:
    def picky_of_type(x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("float32 only")
        return x.relu()

    structure = icycle.trace(Chain(picky_of_type, picky_of_type), ROW)
    assert structure.proof == "numbers"
    assert all(group.exact for group in structure.prunable)
