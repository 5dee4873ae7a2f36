"""The public proof: zero where nothing happens, small where removal equals zeroing, large where it does not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import icycle
from icycle.errors import SubNetworkError
from icycle.testing import exact_part, removal_error, zero
from networks import IMAGE, TOKENS, Branches, Words, differences, snapshot


@pytest.mark.parametrize(("build", "inputs"), [(Branches, IMAGE), (Words, TOKENS)])
def test_removing_equals_zeroing(build: type[nn.Module], inputs: torch.Tensor) -> None:
    model = build()
    subnet = icycle.SubNetwork.random(icycle.trace(model, inputs), 0.5)
    assert removal_error(model, inputs, subnet) <= 1e-5  # 0 where a device sums in the same order with and without
    double = inputs.double() if inputs.is_floating_point() else inputs
    assert removal_error(model.double(), double, subnet) <= 1e-10


def test_the_model_is_not_changed() -> None:
    model = Branches()
    subnet = icycle.SubNetwork.random(icycle.trace(model, IMAGE), 0.5)
    before = snapshot(model)
    removal_error(model, IMAGE, subnet)
    assert differences(before, snapshot(model)) == []


def test_nothing_removed_is_no_error() -> None:
    model = Branches()
    assert removal_error(model, IMAGE, icycle.SubNetwork.full(icycle.trace(model, IMAGE))) == 0.0


def test_groups_that_are_not_exact_are_kept_whole() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
    structure = icycle.trace(model, torch.randn(2, 6))
    exact = exact_part(structure, icycle.SubNetwork.random(structure, 0.5))
    assert {name: int(kept.sum()) for name, kept in exact.keep.items()} == {"0": 8, "2": 3}


def test_the_proof_fails_where_the_wrong_channels_are_zeroed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal of other channels than those that are zeroed must show."""
    model = Branches()
    structure = icycle.trace(model, IMAGE)
    subnet = icycle.SubNetwork.random(structure, 0.5, seed=0)

    def zero_others(target: nn.Module, own: icycle.Structure, _: icycle.SubNetwork) -> None:
        zero(target, own, icycle.SubNetwork.random(structure, 0.5, seed=1))

    monkeypatch.setattr("icycle.testing.zero", zero_others)
    assert removal_error(model, IMAGE, subnet) > 1e-2


def test_zeroing_silences_exactly_the_channels() -> None:
    model = Branches().eval()
    structure = icycle.trace(model, IMAGE)
    subnet = icycle.SubNetwork.random(structure, 0.5)
    kept = copy.deepcopy(model.stem.weight.detach())
    zero(model, structure, subnet)
    gone = ~subnet.keep["stem"]
    assert not model.stem.weight[gone].any()
    assert torch.equal(model.stem.weight[~gone], kept[~gone])
    assert torch.equal(model.norm.running_var[gone], torch.ones(int(gone.sum())))
    assert not model.norm(model.stem(IMAGE))[:, gone].any()


def test_a_sub_network_of_another_model_is_refused() -> None:
    subnet = icycle.SubNetwork.random(icycle.trace(Words(), TOKENS), 0.5)
    with pytest.raises(SubNetworkError):
        removal_error(Branches(), IMAGE, subnet)
