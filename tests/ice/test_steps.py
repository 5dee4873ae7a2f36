"""The steps: which channels go when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import icycle
from ice_toy import EXAMPLE
from icycle.errors import BudgetError, StructureError, TrainingError
from icycle.methods.ice._steps import Step, channels_to_keep, plan_steps
from icycle.selection import Budget
from icycle.structure import SubNetwork, after_removal
from icycle.zoo import build_model
from networks import residual_network as make_model


def planned(model: nn.Module, **settings: Any) -> tuple[icycle.Structure, tuple[Step, ...]]:
    structure = icycle.trace(model, EXAMPLE)
    return structure, plan_steps(structure, icycle.saliency.group_norm(model, structure), **settings)


def test_a_ratio_takes_its_share_rounded_up_of_every_group_front_to_back() -> None:
    structure, steps = planned(make_model(), ratio=0.3, steps="group")
    assert [dict(step.counts) for step in steps] == [{name: 11} for name in ("0", "3.conv1", "4.conv1")]
    assert [group.name for group in structure.prunable] == ["0", "3.conv1", "4.conv1"]


def test_rounding_is_honoured_and_what_loses_nothing_is_no_step() -> None:
    _, steps = planned(make_model(), ratio=0.3, steps="group", round_to=8)
    assert all(count % 8 == 0 for step in steps for count in step.counts.values())
    with pytest.raises(TrainingError, match="removes none"):
        planned(make_model(), ratio=0.05, round_to=16)


@pytest.mark.parametrize("scope", ["group", "step", "global"])
@pytest.mark.parametrize("steps", ["group", "block", "all", 3])
def test_a_budget_is_met_whatever_the_steps(steps: Any, scope: Any) -> None:
    model = make_model(32)
    structure, found = planned(model, budget=Budget(macs=0.5), steps=steps, scope=scope)
    counts = {name: count for step in found for name, count in step.counts.items()}
    assert structure.macs(SubNetwork.first(structure, counts)) / structure.macs() == pytest.approx(0.5, abs=0.02)
    if scope == "group":
        kept = [counts[group.name] / group.size for group in structure.prunable]
        assert max(kept) - min(kept) < 0.1


def test_small_groups_lose_as_large_a_share_as_large_ones() -> None:
    model, example = build_model("resnet20", num_classes=10, width=8), torch.zeros(1, 3, 32, 32)
    structure = icycle.trace(model, example)
    (step,) = plan_steps(
        structure, icycle.saliency.l1(model, structure), budget=Budget(macs=0.12), steps="all", limit=0.95
    )
    shares = [step.counts[group.name] / group.size for group in structure.prunable]
    assert {group.size for group in structure.prunable} == {8, 16, 32}
    assert max(shares) - min(shares) <= 1 / 8, "more than a channel of the smallest"


def test_neighbours_within_one_module_go_together() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x)

    pairs = nn.Sequential(Pair(), Pair(), nn.Linear(6, 3))
    structure = icycle.trace(pairs, torch.zeros(2, 6))
    steps = plan_steps(structure, icycle.saliency.l1(pairs, structure), ratio=0.5)
    assert [sorted(step.counts) for step in steps] == [["0.body.0", "0.body.2"], ["1.body.0", "1.body.2"]]


@pytest.mark.parametrize(("round_to", "widths"), [(1, [27, 23, 19]), (8, [24, 16])])
def test_a_number_of_steps_takes_the_same_share_of_every_group_each_time(round_to: int, widths: list[int]) -> None:
    structure, steps = planned(make_model(32), ratio=0.4, steps=3, round_to=round_to)
    assert [set(step.counts.values()) for step in steps] == [{width} for width in widths]
    assert all(set(step.counts) == {group.name for group in structure.prunable} for step in steps)


def test_patterns_and_lists_choose_groups() -> None:
    _, steps = planned(make_model(), ratio=0.5, groups=["*.conv1"])
    assert [list(step.counts) for step in steps] == [["3.conv1"], ["4.conv1"]]
    _, steps = planned(make_model(), ratio=0.5, steps=[["4.conv1"], ["0", "3.conv1"]])
    assert [list(step.counts) for step in steps] == [["4.conv1"], ["0", "3.conv1"]]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({}, TrainingError, "exactly one"),
        ({"ratio": 0.5, "budget": Budget(macs=0.5)}, TrainingError, "exactly one"),
        ({"ratio": 1.0}, BudgetError, "0 <= ratio < 1"),
        ({"budget": Budget(macs=0.001)}, BudgetError, "smallest"),
        ({"ratio": 0.5, "groups": ["nowhere.*"]}, StructureError, "nowhere"),
        ({"ratio": 0.5, "steps": "blok"}, TrainingError, "blok"),
        ({"ratio": 0.5, "steps": [["0"], ["0"]]}, StructureError, "each group once"),
        ({"ratio": 0.5, "steps": [["9"]]}, StructureError, "9"),
    ],
)
def test_steps_that_cannot_be_are_clear_errors(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        planned(make_model(), **settings)


def test_the_worst_channels_of_a_step_go_of_equals_the_first() -> None:
    structure = icycle.trace(make_model(4), EXAMPLE)
    scores = {name: torch.tensor([1.0, 0.0, 0.0, 2.0]) for name in ("0", "3.conv1", "4.conv1")}
    subnet = channels_to_keep(structure, scores, Step({"3.conv1": 3}))
    assert subnet.keep["3.conv1"].tolist() == [True, False, True, True]
    assert subnet.keep["0"].all()


@pytest.mark.parametrize("name", ["resnet20", "vgg16-bn", "mobilenet-v2", "densenet40"])
def test_the_structure_after_a_removal_is_what_a_trace_finds(name: str) -> None:
    model, example = build_model(name, num_classes=10, width=4), torch.zeros(1, 3, 32, 32)
    structure = icycle.trace(model, example)
    subnet = SubNetwork.random(structure, 0.5, seed=1)
    expected = icycle.trace(icycle.prune(model, structure, subnet), example)
    found = after_removal(structure, subnet)
    assert [(group.name, group.size) for group in found.prunable] == [(g.name, g.size) for g in expected.prunable]
    assert found.layouts == expected.layouts
    assert found.fingerprint == expected.fingerprint
    assert (found.macs(), found.params()) == (expected.macs(), expected.params())
    again = SubNetwork.random(expected, 0.3, seed=2)
    assert found.macs(again) == expected.macs(again)
    for group, other in zip(found.prunable, expected.prunable, strict=True):
        for piece, twin in zip(group.slices, other.slices, strict=True):
            assert (piece.parameter, piece.dim, piece.role) == (twin.parameter, twin.dim, twin.role)
            assert np.array_equal(piece.index, twin.index)
