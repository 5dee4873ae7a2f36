"""An error or an interrupt at any line of a removal leaves everything as it was, or the removal complete."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import icycle
from icycle.surgery import _prune
from icycle.surgery._draft import Swap, commit
from networks import differences, snapshot

FOLDER = str(Path(_prune.__file__).parent)
EXAMPLE = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


def tiny() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """A network, its average, and its optimizer after one step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters())
    model(EXAMPLE).sum().backward()
    optimizer.step()
    return model, copy.deepcopy(model), optimizer


def seen(model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    lists = {
        f"list {number}": (id(group["params"]), *map(id, group["params"]))
        for number, group in enumerate(optimizer.param_groups)
    }
    states = {
        f"{id(parameter)} {key}": (id(value), value.clone())
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    grads = {name: (id(parameter.grad),) for name, parameter in model.named_parameters()}
    return [snapshot(model), snapshot(average), lists | states, grads]


def raise_at(lines: set[int], error: Callable[[], BaseException], call: Callable[[], Any], folder: str) -> int:
    """Run `call` and raise at these lines, counted as they run in files of `folder`; returns how many ran."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(folder):
            return None
        if event == "line":
            count += 1
            if count in lines:
                raise error()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


ERRORS = (KeyboardInterrupt, MemoryError)


def test_at_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds by turns: a line that runs for each of four parameters meets both."""
    monkeypatch.setattr(_prune, "rehearse", lambda *_: None)  # works on a shadow, and its lines are many
    model, average, optimizer = tiny()
    structure = icycle.trace(model, EXAMPLE)
    subnet = icycle.SubNetwork.random(structure, 0.5)
    whole = raise_at(set(), KeyboardInterrupt, partial(icycle.prune, copy.deepcopy(model), structure, subnet), FOLDER)
    assert whole > 100
    kept = complete = line = 0
    before = seen(model, average, optimizer)
    while True:
        line += 1
        try:
            raise_at(
                {line}, ERRORS[line % 2], partial(icycle.prune, model, structure, subnet, optimizer, [average]), FOLDER
            )
        except (*ERRORS, icycle.errors.SurgeryError):
            after = seen(model, average, optimizer)
            same = [not differences(one, other) for one, other in zip(before, after, strict=True)]
            if all(same):
                kept += 1
                continue
            complete += 1
            assert_removed(model, average, optimizer)
            model, average, optimizer = tiny()
            before = seen(model, average, optimizer)
            continue
        break
    assert_removed(model, average, optimizer)
    assert line == kept + complete + 1
    assert kept > whole


def assert_removed(model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for network in (model, average):
        assert network[0].weight.shape == (2, 3) and network[2].weight.shape == (2, 2)  # type: ignore[index]
        assert network[0].out_features == network[2].in_features == 2  # type: ignore[index]
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.shape == parameter.shape
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape


class Stubborn(dict[str, int]):
    """Refuses a value, once it has taken it."""

    def __setitem__(self, key: str, value: int) -> None:
        super().__setitem__(key, value)
        if value == 2:
            raise RuntimeError("refused")


def test_a_second_interrupt_while_taking_back() -> None:
    file = commit.__code__.co_filename
    line = 0
    while True:
        line += 1
        plain, stubborn = {"a": 1}, Stubborn(a=1)
        swaps = [Swap.item(plain, "a", 2), Swap.item(plain, "new", 5), Swap.item(stubborn, "a", 2)]
        try:
            raise_at({line}, KeyboardInterrupt, partial(commit, swaps), file)
        except KeyboardInterrupt:
            assert (plain, dict(stubborn)) == ({"a": 1}, {"a": 1})
        except RuntimeError:
            assert (plain, dict(stubborn)) == ({"a": 1}, {"a": 1})
            break
    assert line > 10
