"""Steps that go together, where no fine-tune would be due after them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import icycle
from ice_toy import EXAMPLE, VALIDATION, Asked, prune
from icycle.methods import FineTune, IceResult
from icycle.saliency._slices import consumers


class Penalty:
    """Each group that has lost channels costs so many points, until there is a fine-tune."""

    def __init__(self, model: nn.Module, points: float) -> None:
        groups = icycle.trace(model, EXAMPLE).prunable
        self._readers = [next(piece.parameter for piece in consumers(group)) for group in groups]
        self._sizes = [group.size for group in groups]
        self._points = points
        self._forgiven = 0

    def evaluate(self, model: nn.Module) -> float:
        weights = dict(model.named_parameters())
        read = [int(weights[name].transpose(0, 1).flatten(1).any(dim=1).sum()) for name in self._readers]
        lost = sum(now < size for now, size in zip(read, self._sizes, strict=True))
        return 100 - self._points * max(lost - self._forgiven, 0)

    def fine_tune(self, model: nn.Module, request: FineTune) -> None:
        self._forgiven = request.step


def run(model: nn.Module, points: float, **settings: object) -> IceResult:
    penalty = Penalty(model, points)
    return prune(model, penalty.fine_tune, evaluate=penalty.evaluate, final_epochs=0, steps="group", **settings)


@pytest.mark.parametrize(
    ("points", "numbers", "fine_tunes"),
    [
        (5.0, [3], 0),  # all at once
        (12.0, [1, 2, 3], 1),  # 36 with all three, 12 with the half, 24 with another one
        (20.0, [1, 2, 3], 3),  # each by itself
    ],
)
def test_as_many_steps_go_together_as_the_trigger_lets_pass(
    trained: nn.Module, points: float, numbers: list[int], fine_tunes: int
) -> None:
    result = run(trained, points, threshold=20.0, confidence=None)
    assert [step.number for step in result.steps] == numbers
    assert result.fine_tunes == fine_tunes


def test_together_they_are_one_removal_refitted_to_the_whole_network(trained: nn.Module) -> None:
    stepwise, at_once = copy.deepcopy(trained), copy.deepcopy(trained)
    prune(stepwise, steps="group", threshold=90.0, seed=3)
    prune(at_once, steps="all", threshold=90.0, seed=3)
    _require_equal(stepwise, at_once)


def test_what_was_declined_leaves_no_trace(trained: nn.Module) -> None:
    tried, plain = copy.deepcopy(trained), copy.deepcopy(trained)
    run(tried, 20.0, threshold=20.0, confidence=None)
    run(plain, 20.0, threshold=None)
    _require_equal(tried, plain)


def test_without_compensation_every_step_is_taken_by_itself(trained: nn.Module) -> None:
    result = run(trained, 0.0, threshold=20.0, confidence=None, compensate=False)
    assert [step.number for step in result.steps] == [1, 2, 3]


def test_every_read_of_the_split_counts(trained: nn.Module) -> None:
    asked = Asked()
    result = prune(trained, asked, steps="group", threshold=20.0, validation=VALIDATION)
    assert len(result.steps) == 1
    assert result.examples_read > result.steps[0].decision.examples  # the trial before the removal


def _require_equal(one: nn.Module, other: nn.Module) -> None:
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
