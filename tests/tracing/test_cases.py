"""Of every case of the rules' tests channels are removed, and what is left is what was promised."""

from __future__ import annotations

import pytest
import test_images
import test_joining
import test_layers
import test_norms
import test_products

from cases import Case
from proof import prove, reasons, sizes

CASES: dict[str, Case] = {
    f"{module.__name__.removeprefix('test_')}, {name}": case
    for module in (test_images, test_joining, test_layers, test_norms, test_products)
    for name, case in module.CASES.items()
}


@pytest.mark.parametrize("name", CASES)
def test_half_of_everything_goes_as_promised(name: str) -> None:
    """The groups are those stated: a tracer that pins everything is right, and useless."""
    case = CASES[name]
    structure = prove(case.build(), case.inputs)
    assert sizes(structure) == case.groups, reasons(structure)
    assert {group.name for group in structure.prunable if not group.exact} == case.inexact


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_other_shares_go_as_promised(name: str, seed: int) -> None:
    prove(CASES[name].build(), CASES[name].inputs, seed)
