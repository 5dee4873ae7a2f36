"""No group is called exact whose removal differs from zeroing, whatever a network's code does.

All is traced over shapes, save what only values tell, and a sample with the proof in numbers (all of it with
--all-models).
"""

from __future__ import annotations

import pytest

from adversary import Case, try_case
from cases_attention import CASES as ATTENTION
from cases_blocks import CASES as BLOCKS
from cases_code import CASES as CODE
from cases_machinery import CASES as MACHINERY
from cases_numbers import CASES as NUMBERS
from cases_positions import CASES as POSITIONS
from cases_recurrent import CASES as RECURRENT
from cases_state import CASES as STATE
from cases_writes import CASES as WRITES
from cases_zeros import CASES as ZEROS

NETWORKS: list[Case] = [*BLOCKS, *ATTENTION, *RECURRENT, *MACHINERY, *STATE, *WRITES]
ALL: list[Case] = [*NUMBERS, *CODE, *POSITIONS, *ZEROS, *NETWORKS]
# a size that Python shows to nobody becomes a value of a tensor, decides a branch, or gives the same at other counts
UNSEEN = {
    *("int-isqrt", "size-shape_as_tensor"),
    *(f"torch-{way}" for way in ("long_tensor", "setitem", "where", "equal")),
    *(f"branch-{way}" for way in ("loop", "loop_of_half", "text", "text_of_shape")),
}
RULES: list[Case] = [case for case in ALL if not case.unseen and case.name not in UNSEEN]
SAMPLE = {case.name for case in (*NUMBERS[::3], *CODE[::2], *POSITIONS[::8], *ZEROS[::8], *NETWORKS[::8])}


def _name(case: Case) -> str:
    return case.name


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("case", RULES, ids=_name)
def test_the_rules_alone_call_nothing_exact_wrongly(case: Case) -> None:
    try_case(case, "shapes")


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("case", ALL, ids=_name)
def test_what_is_called_exact_is(case: Case, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--all-models") and case.name not in SAMPLE:
        pytest.skip("--all-models tries every network with numbers, too")
    try_case(case, "numbers")


def test_there_are_enough_and_none_twice() -> None:
    names = [case.name for case in ALL]
    assert len(names) == len(set(names)) > 250
