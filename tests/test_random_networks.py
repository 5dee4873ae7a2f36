"""200 random networks obey every law; every kind of block can lose channels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import icycle
from proof import reasons
from random_blocks import IMAGE, LENGTHENING, ROW, SEQUENCE, SHRINKING, Kind
from random_networks import LAWS, SEEDS, Sample, networks, sample

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(max_examples=200, derandomize=True, database=None, suppress_health_check=_SLOW)
@given(networks(), SEEDS)
def test_every_law_holds(sample: Sample, seed: int) -> None:
    structure = icycle.trace(sample.model, sample.inputs)
    for law in LAWS if structure.prunable else LAWS[:1]:
        law(sample, structure, seed)


def _between_layers(kind: Kind, places: list[Kind], draw: st.DataObject) -> Sample:
    """A block of this kind between two layers that can lose channels."""
    torch.manual_seed(0)
    with torch.no_grad():
        if places in (ROW, SEQUENCE, LENGTHENING):
            inputs = torch.randn(*((2, 5) if places is ROW else (2, 3, 5)))
            first: torch.nn.Module = torch.nn.Linear(5, 8)
        else:
            inputs = torch.randn(2, 3, 4, 4)
            first = torch.nn.Conv2d(3, 8, 1)
        block = kind(draw.draw, first(inputs))
        width = block(first(inputs)).shape[1 if inputs.dim() == 4 else -1]
    last = torch.nn.Conv2d(width, 3, 1) if inputs.dim() == 4 else torch.nn.Linear(width, 3)
    return sample(torch.nn.Sequential(first, block, torch.nn.ReLU(), last), inputs)


_ALL = [(kind, places) for places in (IMAGE, SHRINKING, SEQUENCE, LENGTHENING, ROW) for kind in places]


@pytest.mark.parametrize(("kind", "places"), _ALL, ids=lambda value: getattr(value, "__name__", ""))
def test_every_kind_of_block_leaves_something_to_remove(kind: Kind, places: list[Kind]) -> None:
    """A tracer that pins everything would obey every law, and be useless."""
    pinned: list[str] = []

    @settings(max_examples=5, database=None, derandomize=True, suppress_health_check=_SLOW)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        own = _between_layers(kind, places, data)
        structure = icycle.trace(own.model, own.inputs)
        assert not structure.unknown_operations
        if not structure.prunable:
            pinned.append(f"{own}\n{reasons(structure)}")

    check()
    assert len(pinned) < 3, "\n\n".join(pinned)
