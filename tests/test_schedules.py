"""Learning-rate schedules: laws, and torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from icycle.training import Constant, Cosine, MultiStep


@given(st.floats(0, 1), st.floats(0, 0.9))
def test_factors_lie_between_nothing_and_the_base_rate(progress: float, warmup: float) -> None:
    for schedule in (Cosine(warmup=warmup), MultiStep(warmup=warmup), Constant(warmup=warmup)):
        assert 0 <= schedule.factor(progress) <= 1


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.9))
def test_after_the_warm_up_no_schedule_rises(first: float, second: float, warmup: float) -> None:
    early, late = sorted((max(first, warmup), max(second, warmup)))
    for schedule in (Cosine(warmup=warmup), MultiStep(warmup=warmup), Constant(warmup=warmup)):
        assert schedule.factor(late) <= schedule.factor(early)


@pytest.mark.parametrize("step", [0, 3, 10, 19])
def test_cosine_agrees_with_torch(step: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    for _ in range(step):
        optimizer.step()
        oracle.step()
    assert Cosine(final=0.1).factor(step / 20) == pytest.approx(oracle.get_last_lr()[0])


def test_multi_step_multiplies_at_its_milestones() -> None:
    schedule = MultiStep(milestones=(0.25, 0.5), gamma=0.1)
    assert [schedule.factor(progress) for progress in (0.2, 0.25, 0.49, 0.5)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_warm_up_rises_in_a_straight_line() -> None:
    schedule = Constant(warmup=0.4)
    assert [schedule.factor(progress) for progress in (0.0, 0.1, 0.2, 0.4)] == pytest.approx([0, 0.25, 0.5, 1])
