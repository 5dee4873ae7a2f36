"""Every kind of reason reads well and says what helps; the first reason that was found stays."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import icycle
from icycle.axes import Axis, mark_inexact, pin, unify
from icycle.reasons import NOWHERE, Kind, Place, Reason

HERE = Place("aten::view", "blocks.0", "net.py:3")


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_says_what_is_the_case_and_what_helps(kind: Kind) -> None:
    """A detail that the words leave out, or words that are left with a hole, would show."""
    reason = Reason(kind, "DETAIL", *HERE)
    assert str(reason) == f"{reason.cause}: aten::view at blocks.0 (net.py:3)"
    assert ("DETAIL" in reason.cause) == ("{detail}" in kind.words)
    assert len(reason.advice) > 20
    assert not re.search(r"[{}]", reason.cause + reason.advice)


def test_no_two_kinds_are_one() -> None:
    """An enumeration makes one member of two that are equal."""
    assert len(Kind) == len(Kind.__members__)
    assert len({kind.words for kind in Kind}) == len(Kind)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (HERE, "aten::view at blocks.0 (net.py:3)"),
        (Place("aten::view", "", "net.py:3"), "aten::view at the model itself (net.py:3)"),
        (Place("aten::view", "blocks.0"), "aten::view at blocks.0"),
        (NOWHERE, ""),
    ],
)
def test_a_place_reads_well(place: Place, words: str) -> None:
    assert str(place) == words
    assert str(Reason(Kind.INPUT, "", *place)) == "an input of the model" + (f": {words}" if words else "")


def test_the_first_reason_stays() -> None:
    first, second = Reason(Kind.INPUT), Reason(Kind.OUTPUT)
    axis, other = Axis(3), Axis(3)
    for reason in (first, second):
        pin(axis, reason)
        mark_inexact(axis, reason)
    pin(other, second)
    unify(other, axis, HERE)
    assert axis.pinned == axis.inexact == first


def test_where_nothing_is_prunable_what_went_wrong_is_told_first() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).cumsum(1))

    structure = icycle.trace(Reads(), torch.randn(3, 4))
    scores = icycle.saliency.group_norm(Reads(), structure)
    with pytest.raises(icycle.errors.StructureError, match="has none: every element takes part"):
        icycle.select(structure, scores, icycle.Budget(macs=0.5))
