"""Fault location by halves, against what was hidden."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from icycle.engine._halves import at_fault

NAMES = [f"g{number}" for number in range(23)]


@pytest.mark.parametrize("hidden", [["g0"], ["g22"], ["g3", "g4"], ["g0", "g11", "g12", "g22"], NAMES])
def test_all_that_fail_alone_are_found(hidden: list[str]) -> None:
    assert at_fault(NAMES, lambda some: bool({*some} & {*hidden})) == hidden


@pytest.mark.parametrize("hidden", [["g2", "g17"], ["g0", "g1"], ["g4", "g12", "g20"]])
def test_what_fails_only_together_is_found_together(hidden: list[str]) -> None:
    assert sorted(at_fault(NAMES, lambda some: {*hidden} <= {*some})) == sorted(hidden)


def test_one_among_many_takes_few_trials() -> None:
    asked: list[Sequence[str]] = []

    def fails(some: Sequence[str]) -> bool:
        asked.append(some)
        return "g700" in some

    assert at_fault([f"g{number}" for number in range(1024)], fails) == ["g700"]
    assert len(asked) <= 20
