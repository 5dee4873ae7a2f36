"""When a run searches, shrinks and removes."""

from __future__ import annotations

import math

import pytest

from icycle.errors import TrainingError
from icycle.methods import Phases


def test_the_log_shrink_grows_quadratically_over_the_sparsity_phase() -> None:
    phases = Phases(sparsity_start=0.2, sparsity_end=0.6, shrink=8.0)
    assert [round(phases.shrunk_by(progress, 0.2), 9) for progress in (0.0, 0.2, 0.4, 0.6, 0.9)] == [0, 0, 2, 8, 8]
    by_itself = Phases(sparsity_end=0.6, ramp=0.2, shrink=8.0)
    assert [round(by_itself.shrunk_by(progress, 0.1), 9) for progress in (0.1, 0.2, 0.3, 0.5)] == [0, 2, 8, 8]
    assert by_itself.shrunk_by(0.5, None) == 0
    assert (by_itself.search_end, by_itself.removal_after(0.1), by_itself.removal_after(0.5)) == (
        pytest.approx(0.4), pytest.approx(0.3), 0.6,
    )  # fmt: skip


@pytest.mark.parametrize(
    "setting",
    [
        {"sparsity_start": 0.5, "sparsity_end": 0.4},
        {"monitor_start": -0.1},
        {"sparsity_end": 1.1},
        {"checks": 0},
        {"lag": 0.0},
        {"threshold": 0.0},
        {"threshold": 1.5},
        {"plateau": 0.96},
        {"ramp": 0.0},
        {"shrink": -1.0},
        {"shrink": math.nan},
    ],
)
def test_phases_out_of_range_are_errors(setting: dict) -> None:
    with pytest.raises(TrainingError, match="Expected"):
        Phases(**setting)
