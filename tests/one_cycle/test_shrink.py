"""What the shrink does to the weights."""

from __future__ import annotations

import math

import pytest
import torch

import icycle
from icycle.methods import OneCycle
from icycle.methods.one_cycle._shrink import Shrink
from icycle.structure import SubNetwork
from networks import residual_network as make_model
from one_cycle_toy import EXAMPLE, HALF, NEVER_STABLE, gone, idle, weights


def test_every_marked_weight_shrinks_once_and_no_other_at_all() -> None:
    model = make_model()
    structure = icycle.trace(model, EXAMPLE)
    subnet = SubNetwork.random(structure, 0.5, seed=1)
    before, taken = weights(model), gone(model, structure, subnet)
    assert any(mask.dim() == 4 and mask.any() and not mask.all() for mask in taken.values())
    shrink = Shrink()
    shrink.mark(model, structure, subnet)
    shrink.advance(0.5)
    for name, after in weights(model).items():
        assert torch.equal(after[~taken[name]], before[name][~taken[name]])
        torch.testing.assert_close(after[taken[name]], before[name][taken[name]] * math.exp(-0.5))


def test_nothing_shrinks_once_the_marks_are_cleared_or_where_all_is_kept() -> None:
    model = make_model()
    structure = icycle.trace(model, EXAMPLE)
    before = weights(model)
    shrink = Shrink()
    shrink.advance(1.0)
    shrink.mark(model, structure, SubNetwork.full(structure))
    shrink.advance(1.0)
    shrink.mark(model, structure, SubNetwork.random(structure, 0.5))
    shrink.clear()
    shrink.advance(1.0)
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_half_precision_does_not_lose_the_small_steps() -> None:
    model = make_model().bfloat16()
    structure = icycle.trace(make_model(), EXAMPLE)
    subnet = SubNetwork.random(structure, 0.5, seed=1)
    before, taken = weights(model), gone(model, structure, subnet)
    shrink = Shrink()
    shrink.mark(model, structure, subnet)
    for _ in range(10_000):
        shrink.advance(2e-4)
    shrink.clear()
    name = "3.conv1.weight"
    ratio = weights(model)[name][taken[name]].float().norm() / before[name][taken[name]].float().norm()
    assert ratio == pytest.approx(math.exp(-2), rel=0.1)


def test_the_shrink_follows_a_model_that_is_moved() -> None:
    model = make_model()
    structure = icycle.trace(model, EXAMPLE)
    shrink = Shrink()
    shrink.mark(model, structure, SubNetwork.random(structure, 0.5))
    model.to(memory_format=torch.channels_last)
    before = weights(model)
    shrink.advance(1.0)
    assert not torch.equal(weights(model)["3.conv1.weight"], before["3.conv1.weight"])


@pytest.mark.parametrize(("epochs", "steps"), [(2, 10), (4, 25), (10, 100)])
def test_the_total_shrink_is_as_stated_whatever_the_number_of_steps(epochs: int, steps: int) -> None:
    model = make_model()
    before = weights(model)
    ratios = []

    def measure(moment: str) -> None:
        if moment == "before":
            taken = gone(model, pruner.structure, pruner.subnet)
            ratios.extend(
                float(value[taken[name]].norm() / before[name][taken[name]].norm())
                for name, value in weights(model).items()
                if before[name][taken[name]].any()
            )
            assert all(
                torch.equal(value[~taken[name]], before[name][~taken[name]]) for name, value in weights(model).items()
            )

    pruner = OneCycle(
        model, EXAMPLE, budget=HALF, epochs=epochs, steps_per_epoch=steps, phases=NEVER_STABLE, on_removal=measure
    )
    idle(pruner, epochs, steps)
    assert pruner.removed
    assert len(ratios) >= 8
    assert ratios == pytest.approx([math.exp(-8)] * len(ratios), rel=1e-3)
