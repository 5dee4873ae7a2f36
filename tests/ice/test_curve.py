"""The learning rate's curve."""

from __future__ import annotations

import math

import pytest

from icycle.errors import TrainingError
from icycle.methods import Curve, OneShot, pruning_aware_rate
from icycle.training import AdamW, TrainSettings


@pytest.mark.parametrize(
    ("x", "p", "beta", "expected"),
    [
        (0.8, 0.2, 40.0, 0.015),  # x = 1 - p: half-way, whatever beta is
        (0.5, 0.5, 3.0, 0.015),
        (0.0, 0.2, 40.0, 0.010),  # nothing left
        (1.0, 0.2, 40.0, 0.02 - 0.01 / (1 + (1 / 0.6) ** 40)),
        (0.25, 0.5, 1.0, 0.02 - 0.0075),  # the fraction is 1/3, 1 + 1/3 = 4/3
        (0.75, 0.5, 2.0, 0.02 - 0.001),  # the fraction is 3, 1 + 9 = 10
        (0.8, 0.6, 40.0, 0.02),  # x = 2 (1 - p): the fraction is infinite
        (0.9, 0.6, 40.0, 0.02),  # beyond
    ],
)
def test_the_rate_is_the_formula_s(x: float, p: float, beta: float, expected: float) -> None:
    assert pruning_aware_rate(x, base=0.02, delta=0.01, p=p, beta=beta) == pytest.approx(expected, abs=1e-15)
    assert Curve(0.02, 0.01, p, beta)(x) == pytest.approx(expected, abs=1e-15)


def test_the_rate_falls_as_weights_go_and_never_overflows() -> None:
    rates = [pruning_aware_rate(x / 100, base=0.02, delta=0.01, p=0.3, beta=1e6) for x in range(101)]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (pytest.approx(0.01), pytest.approx(0.02))
    assert Curve(0.02, 0.01).flat()(0.0) == 0.02


@pytest.mark.parametrize(
    "wrong", [{"base": 0.0}, {"delta": 0.02}, {"delta": -0.1}, {"p": 1.0}, {"beta": 0.0}, {"base": math.nan}]
)
def test_a_curve_out_of_range_is_an_error(wrong: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="Expected base > 0"):
        Curve(**{"base": 0.02, "delta": 0.01, **wrong})


def test_without_a_base_the_rate_is_a_tenth_of_what_the_network_was_trained_with() -> None:
    assert Curve().after(1e-3)(0.5) == pytest.approx(1e-4)
    assert Curve(0.02).after(1e-3)(0.5) == 0.02
    with pytest.raises(TrainingError, match="a base"):
        Curve()(0.5)
    with pytest.raises(TrainingError, match="0 without one"):
        Curve(delta=0.01)


def test_a_recipes_rate_counts_whatever_its_optimizer() -> None:
    method = OneShot(budget={"macs": 0.5})
    assert method.settings(TrainSettings(optimizer=AdamW(learning_rate=1e-3))).curve(0.5) == pytest.approx(1e-4)
    given = OneShot(budget={"macs": 0.5}, curve={"base": 0.01})
    assert given.settings(TrainSettings(optimizer=AdamW(learning_rate=1e-3))).curve(0.5) == 0.01
