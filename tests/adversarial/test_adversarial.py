"""No group is called exact whose removal differs from zeroing, whatever a network's code does."""

from __future__ import annotations

import inspect

import pytest

import icycle
from adversary import Case, try_case
from cases_code import CASES as CODE
from cases_numbers import CASES as NUMBERS
from cases_positions import CASES as POSITIONS
from cases_zeros import CASES as ZEROS

RULES: list[Case] = [case for case in (*POSITIONS, *ZEROS) if not case.unseen]  # what a rule has to know by itself
ALL: list[Case] = [*NUMBERS, *CODE, *POSITIONS, *ZEROS]
HAS_PROOF = "proof" in inspect.signature(icycle.trace).parameters


def _name(case: Case) -> str:
    return case.name


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("case", RULES, ids=_name)
def test_the_rules_alone_call_nothing_exact_wrongly(case: Case) -> None:
    try_case(case, "shapes" if HAS_PROOF else None)


@pytest.mark.skipif(not HAS_PROOF, reason="trace has no proof in numbers")
@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("case", ALL, ids=_name)
def test_what_is_called_exact_is(case: Case) -> None:
    try_case(case, "numbers")


def test_there_are_enough_and_none_twice() -> None:
    names = [case.name for case in ALL]
    assert len(names) == len(set(names)) > 250
