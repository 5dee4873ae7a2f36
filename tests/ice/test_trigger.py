"""The trigger: when a fine-tune is due, and on what evidence."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from operator import itemgetter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ice_toy import Asked
from icycle.errors import DataError, TrainingError
from icycle.methods._judged import Judged, judged
from icycle.methods._training import OwnTraining
from icycle.methods.ice._trigger import Answers, ExactTrigger, SequentialTrigger, size_needed
from icycle.tracing import map_tensors


def answers(right: np.ndarray, labels: str = "") -> Any:
    """`right(model)` that ignores the model: bool answers, in batches of 10."""

    def batches(model: nn.Module) -> Iterator[Judged]:
        for number, batch in enumerate(torch.from_numpy(right).split(10)):
            yield Judged(batch, f"{labels}{number}")

    return batches


def trigger_of(dense: np.ndarray, now: Any, threshold: float, confidence: float) -> SequentialTrigger:
    return SequentialTrigger(Answers.of(nn.Identity(), answers(dense)), now, threshold, confidence)


def sequential(dense: np.ndarray, now: np.ndarray, threshold: float, confidence: float) -> Any:
    return trigger_of(dense, answers(now), threshold, confidence)(nn.Identity())


@pytest.mark.parametrize(("threshold", "confidence"), [(1.0, 0.95), (5.0, 0.9), (10.0, 0.99)])
def test_the_size_needed_is_the_least_that_passes_an_unchanged_network(threshold: float, confidence: float) -> None:
    t = threshold / 100
    wealth = np.ones(20)
    examples = 0
    while wealth.mean() < 1 / (1 - confidence):
        wealth *= 1 + np.arange(1, 21) / 20 / (1 - t) * t
        examples += 1
    assert size_needed(threshold, confidence) == examples


def test_an_unchanged_network_passes_and_a_broken_one_fires_before_the_split_is_read() -> None:
    dense = np.ones(2000, dtype=bool)
    same = sequential(dense, dense, 5.0, 0.95)
    assert not same.fire
    assert same.confident
    assert same.examples == 10 * math.ceil(size_needed(5.0, 0.95) / 10)
    assert same.share == same.examples / 2000
    broken = sequential(dense, np.arange(2000) % 2 == 0, 5.0, 0.95)
    assert broken.fire
    assert broken.share < 0.05
    assert broken.accuracy == 50.0
    assert broken.drop == 50.0


def test_where_the_split_ends_first_its_average_decides() -> None:
    dense = np.ones(400, dtype=bool)
    for lost, fire in ((19, False), (20, True), (21, True)):
        now = np.ones(400, dtype=bool)
        now[np.linspace(0, 399, lost).astype(int)] = False
        decision = sequential(dense, now, 5.0, 0.95)
        assert (decision.fire, decision.confident, decision.share) == (fire, False, 1.0)


def test_what_is_gained_makes_up_for_what_is_lost() -> None:
    dense, now = np.arange(400) % 2 == 0, np.arange(400) % 2 == 1
    decision = sequential(dense, now, 5.0, 0.95)
    assert decision.drop == 0.0
    assert not decision.fire


@pytest.mark.parametrize(("drop", "wrong"), [(0.1, False), (0.0999, True)])
def test_a_decision_is_wrong_no_more_often_than_stated(drop: float, wrong: bool) -> None:
    """At the threshold itself, the hardest case: confident decisions of the wrong kind out of 400 splits."""
    dice = np.random.default_rng(0)
    dense = np.ones(1000, dtype=bool)
    mistakes = 0
    for _ in range(400):
        decision = sequential(dense, dice.random(1000) >= drop, 10.0, 0.9)
        mistakes += decision.confident and decision.fire == wrong
    assert mistakes / 400 <= 0.1


def test_a_split_too_small_for_the_confidence_names_the_size_needed() -> None:
    needed = size_needed(1.0, 0.99)
    trigger_of(np.ones(needed, dtype=bool), None, 1.0, 0.99)
    with pytest.raises(DataError, match=f"at least {needed} validation examples"):
        trigger_of(np.ones(needed - 1, dtype=bool), None, 1.0, 0.99)


def test_a_split_that_grows_or_shrinks_is_an_error() -> None:
    right = np.arange(400) % 25 > 0  # 4 % are lost: the test is not sure until the end
    with pytest.raises(DataError, match="more than its 200"):
        sequential(np.ones(200, dtype=bool), right, 5.0, 0.95)
    with pytest.raises(DataError, match="only 350 of 400"):
        sequential(np.ones(400, dtype=bool), right[:350], 5.0, 0.95)


def test_a_split_in_another_order_is_an_error() -> None:
    same = np.ones(200, dtype=bool)
    with pytest.raises(DataError, match="other labels in batch 1"):
        trigger_of(same, answers(same, labels="other "), 5.0, 0.95)(nn.Identity())


@pytest.mark.parametrize("labels", [torch.arange(60) % 3, {"boxes": torch.rand(60, 4), "of": torch.arange(60) % 3}])
def test_a_loader_that_shuffles_is_found_out_by_its_labels(labels: Any) -> None:
    """Whatever the labels look like; the order may not change between two passes, and need not be any in particular."""

    def loader(order: torch.Tensor) -> Iterator[Any]:
        for index in order.split(20):
            yield torch.zeros(20, 1), map_tensors(labels, itemgetter(index))

    def judge(batches: Iterable[Any]) -> Generator[torch.Tensor, None, None]:
        for inputs, _ in batches:
            yield torch.ones(len(inputs), dtype=torch.bool)

    mixed = torch.randperm(60)
    first, again, other = (list(judged(loader(order), judge)) for order in (mixed, mixed, torch.arange(60)))
    assert [batch.labels for batch in first] == [batch.labels for batch in again]
    assert all(one.labels != two.labels for one, two in zip(first, other, strict=True))


def test_exact_evaluation_compares_with_the_threshold() -> None:
    assert ExactTrigger(lambda _: 89.0, 90.0, 1.0)(nn.Identity()).fire
    decision = ExactTrigger(lambda _: 89.5, 90.0, 1.0)(nn.Identity())
    assert (decision.fire, decision.accuracy, decision.drop, decision.share) == (False, 89.5, 0.5, 1.0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "nan"),
        ("90", "str"),
        (None, "NoneType"),
        (torch.tensor(90.0), "item"),
        (True, "bool"),
        (101.0, "101"),
    ],
)
def test_an_evaluate_that_is_no_percentage_is_a_clear_error(value: Any, words: str) -> None:
    with pytest.raises(TrainingError, match=r"Expected evaluate\(model\)") as caught:
        OwnTraining(Asked(), lambda _: value).evaluate(nn.Identity())
    assert words in str(caught.value)
    assert OwnTraining(Asked(), lambda _: np.float64(90)).evaluate(nn.Identity()) == 90.0
