"""Runs with a user's own training code."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import icycle
from ice_toy import BATCHES, EXAMPLE, VALIDATION, Asked, accuracy_of, prune, train
from icycle.errors import CriterionError, DataError, SurgeryError, TrainingError
from icycle.methods import Curve, FineTune
from icycle.selection import Budget


def test_a_step_that_recalibration_repairs_triggers_no_fine_tune(trained: nn.Module) -> None:
    with_it, without_it = Asked(), Asked()
    repaired = prune(copy.deepcopy(trained), with_it, ratio=0.25, threshold=10.0, final_epochs=0, compensate=False)
    broken = prune(trained, without_it, ratio=0.25, threshold=10.0, final_epochs=0, compensate=False, calibrate=False)
    assert with_it.requests == []
    assert repaired.fine_tunes == 0
    assert repaired.accuracy > 90
    assert broken.fine_tunes > 0
    assert [request.kind for request in without_it.requests] == ["step"] * broken.fine_tunes


def test_a_run_prunes_in_place_and_tells_what_it_did(trained: nn.Module) -> None:
    asked, seen = Asked(), []
    macs = icycle.trace(trained, EXAMPLE).macs()
    result = prune(trained, asked, budget=Budget(macs=0.5), on_step=seen.append, validation=VALIDATION, threshold=20.0)
    assert result.model is trained
    assert result.macs_before == macs
    assert result.structure.macs() == icycle.trace(trained, EXAMPLE).macs() == pytest.approx(0.5 * macs, rel=0.03)
    assert result.steps == seen
    assert seen[-1].number == result.steps_done == 3
    assert [step.weights for step in seen] == sorted((step.weights for step in seen), reverse=True)
    assert 0 < result.share_read <= 1
    assert result.accuracy == accuracy_of(trained) > 90
    assert result.dense_accuracy > 95
    assert [request.kind for request in asked.requests][-2:] == ["final", "final"]
    assert result.epochs == result.epoch_equivalents == len(asked.requests)
    assert set(result.seconds) >= {"search", "recalibration", "evaluation", "fine-tuning"}


def test_batches_without_targets_are_enough_to_compensate_and_calibrate_on(trained: nn.Module) -> None:
    result = prune(trained, calibration=[inputs for inputs, _ in BATCHES], final_epochs=0)
    assert result.structure.macs() < result.macs_before


def test_without_a_trigger_every_step_is_followed_by_a_fine_tune(trained: nn.Module) -> None:
    asked = Asked()
    result = prune(trained, asked, threshold=None, final_epochs=0)
    assert result.fine_tunes == len(result.steps) == len(asked.requests) == 3
    assert [step.fine_tuned for step in result.steps] == [1.0] * 3
    assert result.share_read == 0


def test_the_rate_follows_the_curve_and_runs_to_zero_or_stays(trained: nn.Module) -> None:
    curve = Curve(base=0.02, delta=0.015, p=0.4, beta=4.0)
    asked = Asked()
    result = prune(copy.deepcopy(trained), asked, threshold=None, curve=curve, final_epochs=2)
    rates = [curve(step.weights) for step in result.steps]
    assert [request.learning_rate for request in asked.requests[:3]] == rates
    assert [request.end for request in asked.requests[:3]] == [0.0] * 3
    first, second = asked.requests[3:]
    assert (first.learning_rate, first.end) == pytest.approx((2 * rates[-1], rates[-1]))
    assert (second.learning_rate, second.end) == pytest.approx((rates[-1], 0.0))
    assert first.rate(0.5) == pytest.approx(1.5 * rates[-1])
    assert (first.epochs_left, second.epochs_left) == (2, 1)
    constant = Asked()
    prune(trained, constant, threshold=None, curve=curve, decay=False, final_epochs=1, final_decay=False)
    assert all(request.learning_rate == request.end for request in constant.requests)
    assert [request.learning_rate for request in constant.requests] == [*rates, 2 * rates[-1]]


def test_what_is_frozen_stays_as_the_removals_left_it(trained: nn.Module) -> None:
    before: dict[str, torch.Tensor] = {}
    asked = Asked()

    def fine_tune(model: nn.Module, request: FineTune) -> None:
        before.update({name: value.detach().clone() for name, value in model.named_parameters() if not before})
        asked(model, request)

    result = prune(trained, fine_tune, freeze=0.5, threshold=99.0, steps=[["4.conv1"]], final_epochs=2)
    assert [request.kind for request in asked.requests] == ["final", "final"]
    assert result.frozen is not None
    assert [layer.name for layer in result.frozen.layers] == ["0", "3.conv1", "3.conv2"]
    assert result.epoch_equivalents < result.epochs == 2.0
    still = {name for layer in result.frozen.layers for name in layer.modules}
    for name, value in result.model.named_parameters():
        assert torch.equal(value, before[name]) == (name.rpartition(".")[0] in still)


def test_momentum_is_sliced_and_the_optimizer_lives_on(trained: nn.Module) -> None:
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9)
    train(trained, [0.01], optimizer)

    def fine_tune(model: nn.Module, request: FineTune) -> None:
        train(model, [request.learning_rate], optimizer)

    result = prune(trained, fine_tune, optimizer=optimizer, threshold=None)
    parameters = list(result.model.parameters())
    assert {id(parameter) for parameter in optimizer.param_groups[0]["params"]} == {id(each) for each in parameters}
    assert all(optimizer.state[each]["momentum_buffer"].shape == each.shape for each in parameters)


@pytest.mark.parametrize("threshold", [None, 5.0])
def test_what_the_last_removal_left_is_told_from_what_its_fine_tune_made_of_it(
    trained: nn.Module, threshold: float | None
) -> None:
    accuracies = iter([99.0, 50.0, 80.0])  # dense, right after the removal, at the end
    result = prune(
        trained, lambda model, request: train(model, [0.01]), evaluate=lambda _: next(accuracies), threshold=threshold,
        confidence=None, steps="all", final_epochs=0, budget=Budget(macs=0.9),
    )  # fmt: skip
    assert (result.fine_tunes, result.accuracy_removed, result.accuracy) == (1, 50.0, 80.0)
    assert next(accuracies, None) is None


def test_the_final_fine_tune_stops_early_and_keeps_the_best(trained: nn.Module) -> None:
    accuracies = iter([99.0, 50.0, 80.0, 90.0, 85.0, 84.0, 83.0])  # dense, after the steps, then epoch by epoch
    states: list[torch.Tensor] = []

    def fine_tune(model: nn.Module, request: FineTune) -> None:
        train(model, [0.01])
        states.append(model[7].weight.detach().clone())  # type: ignore[index]

    result = prune(
        trained, fine_tune, evaluate=lambda _: next(accuracies), threshold=90.0, confidence=None, steps="all",
        final_epochs=9, patience=2, budget=Budget(macs=0.9),
    )  # fmt: skip
    # one evaluation by the trigger: 50; before the final: 80; then 90, 85, 84
    assert len(states) == 3
    assert result.accuracy_before_final == 80.0
    assert result.accuracy == 90.0
    assert torch.equal(result.model[7].weight, states[0])  # type: ignore[index]


@pytest.mark.parametrize(
    ("after", "courses", "ended"),
    [
        ([93.0], [], "within the allowed drop"),
        ([90.0, 92.0, 93.0], [2, 2], "within the allowed drop"),
        ([90.0, 92.0, 92.9, 92.9], [2, 2, 4], "all epochs taken"),
    ],
)
def test_the_final_fine_tune_takes_no_longer_than_it_must(
    trained: nn.Module, after: list[float], courses: list[int], ended: str
) -> None:
    accuracies, asked = iter([95.0, *after]), Asked()
    settings = {"drop": 2.0, "final_epochs": 8, "epochs": 0, "curve": Curve(base=0.01)}
    result = prune(trained, asked, evaluate=lambda _: next(accuracies), steps="all", **settings)
    rates = [0.02 * (1 - epoch / epochs) for epochs in courses for epoch in range(epochs)]
    assert [request.learning_rate for request in asked.requests] == pytest.approx(rates)
    assert [request.epochs_left for request in asked.requests] == [e - i for e in courses for i in range(e)]
    assert (result.accuracy, result.epochs, result.ended) == (after[-1], sum(courses), ended)
    assert next(accuracies, None) is None, "no look that decides nothing"


def test_equal_seeds_give_equal_decisions_and_sub_networks(trained: nn.Module) -> None:
    settings = {"validation": VALIDATION, "threshold": 15.0, "freeze": 0.3, "criterion": "random", "seed": 3}
    first, second = (prune(copy.deepcopy(trained), **settings) for _ in range(2))
    assert first.steps == second.steps
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


@pytest.mark.parametrize(
    ("settings", "criterion"),
    [
        ({}, "reconstruction"),
        ({"compensate": False}, "group_norm"),
        ({"criterion": "l2"}, "l2"),
        ({"criterion": "l2", "compensate": False}, "l2"),
    ],
)
def test_the_criterion_knows_of_compensation_unless_told_otherwise(
    trained: nn.Module, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], criterion: str
) -> None:
    asked: set[str] = set()
    score = icycle.saliency.score

    def watched(name: str, *arguments: Any, **options: Any) -> Any:
        asked.add(name)
        return score(name, *arguments, **options)

    monkeypatch.setattr("icycle.methods.ice._ice.score", watched)
    prune(trained, final_epochs=0, threshold=99.0, **settings)
    assert asked == {criterion}


@pytest.mark.parametrize("criterion", sorted(icycle.saliency.CRITERIA))
def test_every_criterion_can_choose(trained: nn.Module, criterion: str) -> None:
    result = prune(trained, criterion=criterion, loader=BATCHES, loss=cross_entropy, final_epochs=0, threshold=99.0)
    assert result.structure.macs() < result.macs_before


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"threshold": 0.0}, TrainingError, "greater than 0"),
        ({"threshold": 100.0}, TrainingError, "threshold=100.0: input should be less than 100"),
        ({"confidence": 1.0}, TrainingError, "confidence"),
        ({"freeze": 1.0}, TrainingError, "freeze=1.0"),
        ({"ratio": 1.0}, TrainingError, "ratio=1.0"),
        ({"ratio": -0.1}, TrainingError, "ratio"),
        ({"epochs": -1}, TrainingError, "epochs=-1"),
        ({"final_epochs": -1}, TrainingError, "final_epochs"),
        ({"limit": 0.0}, TrainingError, "limit"),
        ({"ratio": None}, TrainingError, "exactly one"),
        ({"treshold": 1.0}, TrainingError, "treshold"),
        ({"criterion": "l3"}, CriterionError, "l3"),
        ({"criterion": "taylor", "calibration": None}, CriterionError, "loader is None"),
        ({"criterion": "taylor", "loader": BATCHES}, CriterionError, "loss is None"),
        ({"evaluate": lambda _: math.nan}, TrainingError, "0..100"),
        ({"evaluate": lambda _: torch.tensor(90.0)}, TrainingError, "float"),
        ({"evaluate": lambda _: 0.93}, TrainingError, "share"),
        ({"validation": VALIDATION[:2], "threshold": 1.0}, DataError, "at least"),
        ({"calibration": iter(BATCHES)}, DataError, "more than once"),
        ({"calibration": [torch.zeros(1, 2, 8, 8)]}, DataError, "calibration as batches that Sequential runs on"),
        ({"optimizer": torch.optim.SGD(nn.Linear(3, 3).parameters())}, SurgeryError, "this SGD holds none"),
    ],
)
def test_what_cannot_work_is_said_before_any_training(
    trained: nn.Module, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    asked = Asked()
    state = copy.deepcopy(trained.state_dict())
    with pytest.raises(error, match=words):
        prune(trained, asked, **settings)
    assert asked.requests == []
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())
