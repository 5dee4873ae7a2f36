"""Removal in every method: compensation on request, once, in the stage that its seconds are counted in."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import icycle
from icycle.errors import SurgeryError, TrainingError
from icycle.methods._remove import remove
from icycle.recipes import RunFolder, load_recipe, run_recipe
from icycle.structure import SubNetwork
from networks import residual_network as make_model

EXAMPLE = torch.zeros(2, 1, 8, 8)
TINY = ("train.epochs=2", "model.width=8", "data.subset=300", "method.round_to=1")


def batches(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64)) for _ in range(count)]


def half_of(model: nn.Module) -> tuple[icycle.Structure, SubNetwork]:
    structure = icycle.trace(model, EXAMPLE)
    return structure, SubNetwork.random(structure, 0.5, seed=0)


def refit(model: nn.Module, structure: icycle.Structure, subnet: SubNetwork) -> None:
    icycle.compensate(model, structure, subnet, batches())


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_is_removed_with_a_refit_is_a_compensated_and_pruned_network() -> None:
    model, expected = make_model(), make_model()
    expected.load_state_dict(model.state_dict())
    averaged = torch.optim.swa_utils.AveragedModel(model)
    structure, subnet = half_of(model)
    left = remove(model, structure, subnet, averaged=[averaged], refit=refit)
    refit(expected, structure, subnet)
    icycle.prune(expected, structure, subnet)
    assert equal(weights_of(model), weights_of(expected))
    assert equal(weights_of(averaged.module), weights_of(expected))
    assert left.fingerprint == icycle.trace(model, EXAMPLE).fingerprint


def test_where_the_removal_fails_the_refit_is_taken_back() -> None:
    model = make_model()
    structure, subnet = half_of(model)
    before = weights_of(model)
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters())
    with pytest.raises(SurgeryError, match="holds"):
        remove(model, structure, subnet, optimizer=stranger, refit=refit)
    assert equal(weights_of(model), before)


def ice(model: nn.Module, **settings: Any) -> icycle.methods.IceResult:
    return icycle.ice(
        model, EXAMPLE, fine_tune=lambda *_: None, evaluate=lambda _: 90.0, ratio=0.5, final_epochs=0, **settings
    )


@pytest.mark.parametrize("given", [{"calibration": batches()}, {"loader": batches()}])
def test_ice_compensates_where_there_are_batches(given: dict[str, Any]) -> None:
    model = make_model()
    with_it, without = copy.deepcopy(model), copy.deepcopy(model)
    assert ice(with_it, **given).seconds["compensation"] > 0
    assert "compensation" not in ice(without, compensate=False, **given).seconds
    assert not equal(weights_of(with_it), weights_of(without))


def test_ice_without_batches_compensates_nothing_and_says_so_where_it_is_asked_to() -> None:
    assert "compensation" not in ice(make_model(), calibration=lambda _: None).seconds
    with pytest.raises(TrainingError, match="batches to compensate on"):
        ice(make_model(), compensate=True)


def one_cycle(model: nn.Module, **given: Any) -> icycle.OneCycle:
    """Run to its end without a step of training: only the removal changes weights."""
    phases = icycle.methods.Phases(shrink=0.0)
    pruner = icycle.OneCycle(
        model, EXAMPLE, budget=icycle.Budget(macs=0.5), epochs=2, steps_per_epoch=20, phases=phases, **given
    )
    for epoch in range(2):
        pruner.start_epoch(epoch)
        for _ in range(20):
            pruner.after_step()
    return pruner


def test_one_cycle_refits_right_before_its_removal_on_the_batches_given() -> None:
    model, expected = make_model(), make_model()
    expected.load_state_dict(model.state_dict())
    structure = icycle.trace(expected, EXAMPLE)
    pruner = one_cycle(model, compensate=batches())
    refit(expected, structure, pruner.subnet)
    icycle.prune(expected, structure, pruner.subnet)
    assert pruner.removed
    assert equal(weights_of(model), weights_of(expected))


@pytest.mark.parametrize("method", ["ice", "iterative", "one-shot", "fixed", "gradual", "at-init", "one-cycle"])
@pytest.mark.parametrize("asked", [True, False])
def test_every_method_that_chooses_channels_compensates_on_request(tmp_path: Path, method: str, asked: bool) -> None:
    own = ("method.steps=all", "method.confidence=null") if method == "ice" else ()
    asks = f"method.compensate={str(asked).lower()}"
    recipe = load_recipe("digits", [f"method.name={method}", "method.budget.macs=0.5", *own, *TINY, asks])
    report = run_recipe(recipe, RunFolder(tmp_path / "run"), listeners=())
    assert (report.seconds.get("compensation", 0.0) > 0) == asked
