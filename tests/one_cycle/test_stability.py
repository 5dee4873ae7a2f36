"""The indicator, and when a search has settled."""

from __future__ import annotations

import pytest
import torch

from icycle.methods.one_cycle._stability import Stability
from icycle.structure import SubNetwork


def subnet_of(*kept: int) -> SubNetwork:
    keep = torch.zeros(8, dtype=torch.bool)
    keep[list(kept)] = True
    return SubNetwork({"g": keep})


def test_the_indicator_is_the_mean_similarity_to_the_sub_network_a_lag_before() -> None:
    stability = Stability(lag=0.2, window=0.2)
    found = [subnet_of(0, 1), subnet_of(1, 2), subnet_of(0, 1), subnet_of(1, 2, 3), subnet_of(0, 1), subnet_of(1, 2, 3)]
    indicators = []
    for number, subnet in enumerate(found):
        stability.add(number / 10, subnet)
        indicators.append(stability.indicator)
    # J with two before: -, -, {01}/{01} = 1, {123}/{12} = 2/3, 1, 1; the mean over 0.2 is over two of them
    assert indicators == [None, None, 1.0, pytest.approx(5 / 6), pytest.approx(5 / 6), pytest.approx(1.0)]


def test_the_search_is_stable_only_once_a_whole_window_says_so() -> None:
    stability = Stability(lag=0.1, window=0.2)
    reached = []
    for number in range(6):
        stability.add(number / 10, subnet_of(0, 1))
        reached.append(stability.reached(0.99))
    assert reached == [False, False, False, True, True, True]


def test_the_indicator_has_stopped_rising_once_no_new_best_has_come_for_long() -> None:
    stability = Stability(lag=0.1, window=0.0, rise=0.1)
    found = [(0,), (1,), (1, 2), (1, 2), (1, 2), (1, 2)]  # J: -, 0, 1/2, 1, 1, 1
    stopped = []
    for number, kept in enumerate(found):
        stability.add(number / 10, subnet_of(*kept))
        stopped.append(stability.stopped_rising(0.2))
    assert stopped == [False, False, False, False, False, True]


def test_searches_far_apart_compare_with_the_last_that_is_old_enough() -> None:
    stability = Stability(lag=0.05, window=0.05)
    for number in range(4):
        stability.add(number / 4, subnet_of(number % 2, 2))
    assert stability.indicator == pytest.approx(1 / 3)
