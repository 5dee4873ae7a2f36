"""A run that is saved and goes on."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bright_rows import bright_rows
from icycle.errors import TrainingError
from icycle.methods import OneCycle, Phases
from networks import residual_network as make_model
from one_cycle_toy import EXAMPLE, HALF, train, weights


def saved_and_read(state: dict, folder: Path) -> dict:
    """Through JSON and safetensors, as a checkpoint does it."""
    from safetensors.torch import load_file, save_file

    save_file({key: value for key, value in state.items() if isinstance(value, torch.Tensor)}, folder / "state")
    values = json.loads(json.dumps({key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}))
    return {**values, **load_file(folder / "state")}


@pytest.mark.parametrize("sparsity_start", [None, 0.1])
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_resumed_run_ends_like_an_uninterrupted_one(stop: int, sparsity_start: float | None, tmp_path: Path) -> None:
    batches, epochs = bright_rows(10), 8
    phases = Phases(sparsity_end=0.5, sparsity_start=sparsity_start)

    def begin() -> tuple[nn.Module, torch.optim.Optimizer, OneCycle]:
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        return (
            model,
            optimizer,
            OneCycle(model, EXAMPLE, budget=HALF, epochs=epochs, optimizer=optimizer, phases=phases),
        )

    model, optimizer, pruner = begin()
    train(model, pruner, optimizer, range(stop), batches)
    state = saved_and_read(pruner.state_dict(), tmp_path)
    weights_then, optimizer_then = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    removed_then = pruner.removed
    train(model, pruner, optimizer, range(stop, epochs), batches)

    again, optimizer_again, resumed = begin()
    resumed.load_state_dict(state)
    assert resumed.removed == removed_then
    again.load_state_dict(weights_then)  # fits: what had been removed is gone
    optimizer_again.load_state_dict(optimizer_then)
    train(again, resumed, optimizer_again, range(stop, epochs), batches)

    assert resumed.subnet == pruner.subnet
    assert resumed.removal_progress == pruner.removal_progress
    assert resumed.removal_epoch == pruner.removal_epoch
    assert resumed.report.searches == pruner.report.searches
    assert resumed.report.curve == pruner.report.curve
    assert resumed.report.reason == pruner.report.reason
    for name, value in weights(again).items():
        torch.testing.assert_close(value, weights(model)[name], rtol=1e-4, atol=1e-5)


def test_a_state_that_does_not_fit_is_an_error() -> None:
    state = OneCycle(make_model(), EXAMPLE, budget=HALF, epochs=2).state_dict()
    with pytest.raises(TrainingError, match="parameters"):
        OneCycle(make_model(24), EXAMPLE, budget=HALF, epochs=2).load_state_dict(state)
    with pytest.raises(TrainingError, match="version"):
        OneCycle(make_model(), EXAMPLE, budget=HALF, epochs=2).load_state_dict({**state, "version": 0})
    del state["removal_due"]
    pruner = OneCycle(make_model(), EXAMPLE, budget=HALF, epochs=2)
    with pytest.raises(TrainingError, match="lacks removal_due"):
        pruner.load_state_dict({**state, "removed": True})
    assert not pruner.removed


def test_the_length_of_an_epoch_is_not_learnt_from_one_that_was_cut() -> None:
    """A run that was saved in the middle of its first epoch, and goes on from there or from its start."""
    pruner = OneCycle(make_model(), EXAMPLE, budget=HALF, epochs=4)
    pruner.start_epoch(0)
    for _ in range(4):  # of ten
        pruner.after_step()
    state = pruner.state_dict()
    for again in (False, True):
        resumed = OneCycle(make_model(), EXAMPLE, budget=HALF, epochs=4)
        resumed.load_state_dict(state)
        if again:
            resumed.start_epoch(0)
        for _ in range(10 if again else 6):
            resumed.after_step()
        assert not resumed.removed
        resumed.start_epoch(1)
        assert resumed.state_dict()["steps_per_epoch"] == 10
