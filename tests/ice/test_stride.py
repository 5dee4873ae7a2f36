"""Everything at once, unless a fine-tune is due before that."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import icycle
from ice_toy import BATCHES, EXAMPLE, VALIDATION, Asked, prune
from icycle.methods import FineTune, IceResult
from icycle.saliency._slices import consumers
from icycle.training import recalibrate


class Penalty:
    """Each channel that has gone since the last fine-tune costs a point; half of the channels are 24."""

    def __init__(self, model: nn.Module) -> None:
        groups = icycle.trace(model, EXAMPLE).prunable
        self._readers = [next(piece.parameter for piece in consumers(group)) for group in groups]
        self._forgiven = self._left = sum(group.size for group in groups)

    def evaluate(self, model: nn.Module) -> float:
        weights = dict(model.named_parameters())
        read = [int(weights[name].transpose(0, 1).flatten(1).any(dim=1).sum()) for name in self._readers]
        self._left = sum(read)
        return 100.0 - (self._forgiven - self._left)

    def fine_tune(self, model: nn.Module, request: FineTune) -> None:
        self.evaluate(model)
        self._forgiven = self._left


def run(model: nn.Module, **settings: object) -> IceResult:
    penalty = Penalty(model)
    given = {"steps": 3, "final_epochs": 0, "confidence": None, **settings}
    return prune(model, penalty.fine_tune, evaluate=penalty.evaluate, **given)


@pytest.mark.parametrize(
    ("threshold", "numbers", "ahead"),
    [
        (25.0, [3], [None]),
        (20.0, [1, 3], [24.0, None]),  # 16 -> 13 of each group, then the other 15
        (10.0, [1, 2, 3], [24.0, 15.0, None]),
    ],
)
def test_all_goes_at_once_unless_a_fine_tune_is_due_first(
    trained: nn.Module, threshold: float, numbers: list[int], ahead: list[float | None]
) -> None:
    result = run(trained, threshold=threshold)
    assert [step.number for step in result.steps] == numbers
    assert [step.decision.ahead for step in result.steps] == ahead
    assert [step.decision.fire for step in result.steps] == [drop is not None for drop in ahead]
    assert result.fine_tunes == len(numbers) - 1
    assert all(set(step.kept.values()) == {{1: 13, 2: 10, 3: 8}[step.number]} for step in result.steps)


@pytest.mark.parametrize(("final_epochs", "fine_tunes"), [(0, 3), (1, 2)])
def test_after_the_last_removal_comes_the_final_fine_tune_or_one_that_is_due(
    trained: nn.Module, final_epochs: int, fine_tunes: int
) -> None:
    assert run(trained, threshold=5.0, final_epochs=final_epochs).fine_tunes == fine_tunes


def test_at_once_is_one_removal_refitted_to_the_whole_network(trained: nn.Module) -> None:
    ours, one_shot = copy.deepcopy(trained), copy.deepcopy(trained)
    prune(ours, steps=3, threshold=90.0, seed=3)
    prune(one_shot, steps="all", threshold=90.0, seed=3)
    _require_equal(ours, one_shot)


def test_what_was_declined_leaves_no_trace(trained: nn.Module) -> None:
    tried, plain = copy.deepcopy(trained), copy.deepcopy(trained)
    run(tried, threshold=5.0, final_epochs=1)
    run(plain, threshold=None, final_epochs=1)
    _require_equal(tried, plain)


@pytest.mark.parametrize("settings", [{"compensate": False}, {"steps": "group"}])
def test_without_compensation_and_for_groups_every_step_is_taken_by_itself(
    trained: nn.Module, settings: dict[str, object]
) -> None:
    result = run(trained, threshold=50.0, **settings)
    assert [step.number for step in result.steps] == [1, 2, 3]
    assert result.fine_tunes == 0


def test_what_is_left_is_judged_with_statistics_of_its_own_and_they_go_back_where_it_is_declined(
    trained: nn.Module,
) -> None:
    plain, before = copy.deepcopy(trained), []

    def estimate(model: nn.Module) -> None:
        before.append(len(list(model.parameters())) and model[0].weight.shape[0])  # type: ignore[index,union-attr]
        recalibrate(model, BATCHES, batches=2)

    run(trained, threshold=5.0, final_epochs=1, calibration=estimate, loader=BATCHES)
    run(plain, threshold=None, final_epochs=1, calibration=estimate, loader=BATCHES)
    _require_equal(trained, plain)
    assert before[:5] == [16, 13, 13, 10, 8]  # the rest is tried, then the next step goes


def test_every_read_of_the_split_counts(trained: nn.Module) -> None:
    result = prune(trained, Asked(), steps=2, threshold=20.0, validation=VALIDATION)
    assert len(result.steps) == 1
    assert result.examples_read > result.steps[0].decision.examples  # the trial before the removal


@pytest.mark.parametrize("compensate", [True, False])
def test_without_epochs_between_removals_all_goes_at_once_unread(trained: nn.Module, compensate: bool) -> None:
    result = prune(trained, steps=2, epochs=0, threshold=1e-3, compensate=compensate)
    assert [step.number for step in result.steps] == [2]
    assert result.examples_read == 0


def _require_equal(one: nn.Module, other: nn.Module) -> None:
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
