"""The proof over shapes: what it takes for a fault, and whom a fault costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.engine import _shapes
from icycle.engine._choices import equal, unequal
from icycle.engine._dry_run import Fault
from proof import sizes


def test_a_literal_factory_is_not_taken_for_one_with_a_size() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            start = torch.arange(1)
            places = torch.arange(x.shape[0]) + start
            return self.last(x.relu()) * places[:, None]

    assert sizes(icycle.trace(Net(), torch.randn(3, 6))) == {"first": 12}


def test_a_fault_costs_the_group_that_shows_it(monkeypatch: Any) -> None:
    """Whatever the operations at which it is seen touch."""
    run = _shapes.dry_run

    def faulty(shadow: nn.Module, example: Any, found: Any, plan: Any, counts: Any) -> Fault | None:
        if plan is not None and "2.weight" in plan.kept and plan.kept["2.weight"][0] is not None:
            return Fault(found.runs[0][1][-1:], "a fault")
        return run(shadow, example, found, plan, counts)

    monkeypatch.setattr(_shapes, "dry_run", faulty)
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 2)]
    structure = icycle.trace(nn.Sequential(*layers), torch.randn(3, 6))
    assert sizes(structure) == {"0": 8, "4": 12}
    assert "a fault" in structure["2"].reason


class TwoWays(nn.Module):
    """Insists on twelve channels for long inputs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x.view(len(x), 3, 4).flatten(1) if len(x) > 4 else x)


def test_what_another_example_runs_is_proven_too() -> None:
    short, long = torch.randn(3, 6), torch.randn(5, 6)
    assert sizes(icycle.trace(TwoWays(), short)) == {"first": 12}
    for proof in ("shapes", "numbers"):
        structure = icycle.trace(TwoWays(), short, also=[long], proof=proof)
        assert not structure.prunable
        assert "example 2" in structure["first"].reason


def test_a_further_example_that_does_not_run_is_refused() -> None:
    with pytest.raises(icycle.errors.TraceError, match="example 2"):
        icycle.trace(TwoWays(), torch.randn(3, 6), also=[torch.randn(3, 7)])


@pytest.mark.parametrize("choose", [equal, unequal])
def test_a_choice_takes_a_part_of_every_group(choose: Any) -> None:
    structure = icycle.trace(nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 30), nn.Linear(30, 2)), torch.randn(3, 6))
    assert all(0 < int(kept.sum()) < len(kept) for kept in choose(structure).keep.values())
