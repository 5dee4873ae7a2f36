"""One-cycle pruning from a user's own loop."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import icycle
from bright_rows import bright_rows
from icycle.errors import BudgetError, DataError, StructureError, SurgeryError, TrainingError
from icycle.methods import OneCycle, Phases
from icycle.methods.one_cycle._shrink import Shrink
from icycle.selection import Budget
from icycle.structure import SubNetwork
from networks import residual_network as make_model
from one_cycle_toy import EXAMPLE, HALF, NEVER_STABLE, gone, idle, train, weights


def test_two_calls_prune_a_network_within_its_training() -> None:
    model, batches = make_model(), bright_rows(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    dense = icycle.trace(model, EXAMPLE).macs()
    moments = []
    pruner = OneCycle(
        model, EXAMPLE, budget=HALF, epochs=8, optimizer=optimizer, recalibrate=batches, on_removal=moments.append
    )
    train(model, pruner, optimizer, range(8), batches)

    assert pruner.removed
    assert moments == ["before", "after"]
    assert pruner.removal_progress is not None
    assert 0.15 <= pruner.removal_progress <= 0.36
    assert pruner.report.reason in ("stable", "deadline")
    assert len(pruner.report.curve) == pruner.report.searches - 1  # the first search is before the run
    assert 0 < (pruner.report.first_to_final or 0) <= 1
    assert pruner.removal_epoch == int(pruner.removal_progress * 8)
    assert icycle.trace(model, EXAMPLE).macs() / dense == pytest.approx(0.5, abs=0.01)
    assert pruner.report.achieved["macs"] == pytest.approx(0.5, abs=0.01)
    assert pruner.report.asked == "50.0% of the macs"
    assert pruner.report.searches >= 3
    assert all(seconds > 0 for seconds in pruner.report.seconds.values())
    assert (
        pruner.subnet.counts(pruner.structure).sum() < SubNetwork.full(pruner.structure).counts(pruner.structure).sum()
    )
    assert sum(cross_entropy(model(inputs), labels).item() for inputs, labels in batches) / len(batches) < 0.5


def still_and_restless(seed: int = 0) -> tuple[Any, Any]:
    """A criterion whose ranking is settled, and one that draws a new one every time."""
    dice = torch.Generator().manual_seed(seed)

    def restless(model: nn.Module, structure: icycle.Structure) -> dict[str, torch.Tensor]:
        return {group.name: torch.rand(group.size, generator=dice) for group in structure.prunable}

    return icycle.saliency.group_norm, restless


def test_a_settled_ranking_does_not_wait_and_one_that_keeps_changing_waits_for_the_deadline() -> None:
    phases = Phases(monitor_start=0.1, sparsity_end=0.7, lag=0.1, window=0.1, ramp=0.1)
    ends = []
    for criterion in still_and_restless():
        pruner = OneCycle(
            make_model(), EXAMPLE, budget=HALF, epochs=10, steps_per_epoch=10, phases=phases, criterion=criterion
        )
        assert pruner.indicator is None
        idle(pruner, 10, 10)
        ends.append((pruner.report.reason, pruner.report.shrink_start, pruner.removal_progress))
    # searches from 0.1, the first similarity at 0.2, a whole window of it at 0.3; then the ramp
    assert ends[0] == ("stable", pytest.approx(0.3), pytest.approx(0.4))
    assert ends[1] == ("deadline", pytest.approx(0.6), pytest.approx(0.7))


def test_a_low_plateau_is_no_reason_to_settle_and_a_high_one_is() -> None:
    _, restless = still_and_restless()
    reasons = []
    for plateau in (0.8, 0.1):
        phases = Phases(monitor_start=0, sparsity_end=0.9, plateau=plateau, patience=0.2)
        pruner = OneCycle(
            make_model(), EXAMPLE, budget=HALF, epochs=10, steps_per_epoch=20, phases=phases, criterion=restless
        )
        idle(pruner, 10, 20)
        reasons.append(pruner.report.reason)
    assert reasons == ["deadline", "stable"]


@pytest.mark.parametrize("shrink", [0.0, 3.0])
def test_the_shrink_changes_no_ranking_where_nothing_else_moves_the_weights(shrink: float) -> None:
    """It goes along with the search here; the worst of the channels that stay would be re-ranked were it seen."""
    found: list[dict[str, torch.Tensor]] = []

    def criterion(model: nn.Module, structure: icycle.Structure) -> dict[str, torch.Tensor]:
        found.append(icycle.saliency.group_norm(model, structure))
        return found[-1]

    phases = Phases(monitor_start=0, sparsity_start=0, sparsity_end=0.5, lag=0.9, shrink=shrink)
    model = make_model()
    before = weights(model)
    pruner = OneCycle(
        model, EXAMPLE, budget=HALF, epochs=10, steps_per_epoch=10, phases=phases, criterion=criterion,
        on_removal=lambda moment: faded.append(any(not torch.equal(w, before[n]) for n, w in weights(model).items())),
    )  # fmt: skip
    faded: list[bool] = []
    idle(pruner, 10, 10)
    assert len(found) > 20
    for scores in found:
        for name, values in scores.items():
            torch.testing.assert_close(values, found[0][name], rtol=1e-5, atol=0)
    assert faded[0] == (shrink > 0)


def test_undoing_the_shrink_gives_back_what_it_took_and_leaves_the_weights_to_the_bit() -> None:
    model = make_model()
    structure = icycle.trace(model, EXAMPLE)
    before = weights(model)
    shrink = Shrink()
    for seed in range(3):  # marks that change
        shrink.mark(model, structure, SubNetwork.random(structure, 0.5, seed=seed))
        shrink.advance(1.0)
    after = weights(model)
    with shrink.undone(model):
        for name, value in weights(model).items():
            torch.testing.assert_close(value, before[name])
    assert all(torch.equal(value, after[name]) for name, value in weights(model).items())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


def test_the_deadline_removes_what_never_settled() -> None:
    pruner = OneCycle(make_model(), EXAMPLE, budget=HALF, epochs=10, steps_per_epoch=10, phases=NEVER_STABLE)
    idle(pruner, 10, 10)
    assert pruner.removal_progress == pytest.approx(0.5)
    assert pruner.report.reason == "deadline"
    assert pruner.indicator is None


def test_a_loop_that_does_not_tell_of_its_epochs_is_an_error() -> None:
    pruner = OneCycle(make_model(), EXAMPLE, budget=HALF, epochs=9, steps_per_epoch=4, phases=NEVER_STABLE)
    with pytest.raises(TrainingError, match="start_epoch"):
        pruner.after_step()
    pruner.start_epoch(0)
    for _ in range(6):
        pruner.after_step()
    with pytest.raises(TrainingError, match="step 7 of epoch 0; call start_epoch"):
        pruner.after_step()


def test_a_run_is_counted_in_steps_of_the_optimizer() -> None:
    """With gradients of two batches accumulated an epoch of 20 batches has 10 steps."""
    pruner = OneCycle(make_model(), EXAMPLE, budget=HALF, epochs=4, phases=NEVER_STABLE)
    for epoch in range(4):
        pruner.start_epoch(epoch)
        for batch in range(20):
            if batch % 2:
                pruner.after_step()
    assert pruner.removal_progress == pytest.approx(0.5)


def test_the_steps_of_an_epoch_are_learnt_in_the_first() -> None:
    pruner = OneCycle(make_model(), EXAMPLE, budget=HALF, epochs=10, phases=NEVER_STABLE)
    idle(pruner, 4, 20)
    assert not pruner.removed
    pruner.start_epoch(4)
    for _ in range(19):
        pruner.after_step()
        assert not pruner.removed
    pruner.after_step()
    assert pruner.removed


def test_the_optimizer_keeps_its_state_and_its_learning_rate() -> None:
    model, batches = make_model(), bright_rows(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    kept_momentum = {}

    def look(moment: str) -> None:
        if moment == "before":
            for name, parameter in model.named_parameters():
                kept_momentum[name] = optimizer.state[parameter]["momentum_buffer"][
                    ~gone(model, pruner.structure, pruner.subnet)[name]
                ].clone()
        else:
            for name, parameter in model.named_parameters():
                assert torch.equal(optimizer.state[parameter]["momentum_buffer"].flatten(), kept_momentum[name])

    pruner = OneCycle(
        model,
        EXAMPLE,
        budget=HALF,
        epochs=4,
        optimizer=optimizer,
        steps_per_epoch=10,
        phases=NEVER_STABLE,
        on_removal=look,
    )
    for epoch in range(4):
        train(model, pruner, optimizer, range(epoch, epoch + 1), batches)
        schedule.step()
    assert kept_momentum
    assert optimizer.param_groups[0]["lr"] == schedule.get_last_lr()[0] < 0.05
    assert {id(parameter) for group in optimizer.param_groups for parameter in group["params"]} == {
        id(parameter) for parameter in model.parameters()
    }


def test_batch_norm_is_recalibrated_after_the_removal() -> None:
    batches = bright_rows(10)
    seen = []
    for recalibrate in (batches, lambda model: seen.append(model), None):
        model = make_model()
        pruner = OneCycle(
            model, EXAMPLE, budget=HALF, epochs=2, steps_per_epoch=4, phases=NEVER_STABLE, recalibrate=recalibrate
        )
        idle(pruner, 2, 4)
        moved = bool(model[1].running_mean.any())  # type: ignore[union-attr, operator]
        assert moved == (recalibrate is batches)
        assert model.training
    assert len(seen) == 1


def test_averaged_copies_lose_the_same_channels_and_are_recalibrated() -> None:
    model = make_model()
    average = copy.deepcopy(model)
    pruner = OneCycle(
        model, EXAMPLE, budget=HALF, epochs=2, steps_per_epoch=4, phases=NEVER_STABLE, averaged=[average],
        recalibrate=bright_rows(10),
    )  # fmt: skip
    idle(pruner, 2, 4)
    assert average[1].running_mean.any()  # type: ignore[union-attr, operator]
    assert [value.shape for value in average.state_dict().values()] == [v.shape for v in model.state_dict().values()]


def test_a_recalibration_that_fails_leaves_a_pruner_that_knows_of_its_removal() -> None:
    model = make_model()

    def fail(model: nn.Module) -> None:
        raise DataError

    pruner = OneCycle(model, EXAMPLE, budget=HALF, epochs=2, steps_per_epoch=4, phases=NEVER_STABLE, recalibrate=fail)
    with pytest.raises(DataError):
        idle(pruner, 2, 4)
    assert pruner.removed
    assert (pruner.removal_epoch, pruner.removal_progress) == (0, 0.5)


def test_a_budget_of_everything_prunes_nothing() -> None:
    model = make_model()
    before = weights(model)
    pruner = OneCycle(model, EXAMPLE, budget=Budget(macs=1.0), epochs=2, steps_per_epoch=10)
    idle(pruner, 2, 10)
    assert pruner.removed
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_round_to_and_limit_are_honoured() -> None:
    model = make_model(32)
    pruner = OneCycle(model, EXAMPLE, budget=Budget(macs=0.6), epochs=2, steps_per_epoch=4, round_to=8, limit=0.5)
    assert set(pruner.subnet.counts(pruner.structure).tolist()) <= {16, 24, 32}


def test_what_cannot_work_is_said_before_any_training() -> None:
    model = make_model()
    before = weights(model)
    with pytest.raises(BudgetError, match="smallest sub-network has"):
        OneCycle(model, EXAMPLE, budget=Budget(macs=0.001), epochs=2)
    with pytest.raises(StructureError, match="prunable"):
        OneCycle(nn.Linear(4, 2), torch.zeros(1, 4), budget=HALF, epochs=2)
    with pytest.raises(TrainingError, match="epochs"):
        OneCycle(model, EXAMPLE, budget=HALF, epochs=0)
    with pytest.raises(TrainingError, match="one epoch"):
        OneCycle(model, EXAMPLE, budget=HALF, epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        ({"budget": 0.5}, BudgetError, r"Budget\(macs=0.5\)"),
        ({"phases": 3}, TrainingError, "Phases"),
        ({"epochs": "3"}, TrainingError, "epochs"),
        ({"epochs": 2.5}, TrainingError, "epochs"),
        ({"steps_per_epoch": 2.5}, TrainingError, "steps_per_epoch"),
        ({"criterion": "l1"}, TrainingError, "icycle.saliency.l1, but got 'l1'"),
        ({"optimizer": "x"}, SurgeryError, "this str holds none"),
        ({"optimizer": torch.optim.SGD(nn.Linear(3, 3).parameters())}, SurgeryError, "this SGD holds none"),
        ({"averaged": [3]}, SurgeryError, "this int is of another model"),
        ({"averaged": [nn.Linear(3, 3)]}, SurgeryError, "this Linear is of another model"),
        ({"compensate": 5}, DataError, "compensate as batches that Sequential runs on, but the first of this int"),
        ({"recalibrate": []}, DataError, "at least one batch as recalibrate"),
        ({"recalibrate": [torch.zeros(1, 2, 8, 8)]}, DataError, "recalibrate.* 2 channels"),
    ],
)
def test_what_must_fail_at_the_removal_is_said_before_any_training(
    setting: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        OneCycle(make_model(), EXAMPLE, **{"budget": HALF, "epochs": 2, **setting})


def test_lbfgs_is_refused_before_any_training() -> None:
    model = make_model()
    with pytest.raises(SurgeryError, match="LBFGS keeps a history"):
        OneCycle(model, EXAMPLE, budget=HALF, epochs=2, optimizer=torch.optim.LBFGS(model.parameters()))


@pytest.mark.parametrize("name", ["compensate", "recalibrate"])
def test_batches_that_can_be_read_only_once_are_refused_where_averaged_copies_read_them_too(name: str) -> None:
    model = make_model()
    settings: dict[str, Any] = {"averaged": [copy.deepcopy(model)], name: iter(bright_rows(2))}
    with pytest.raises(DataError, match=f"{name} to give the same batches each time"):
        OneCycle(model, EXAMPLE, budget=HALF, epochs=2, **settings)


@pytest.mark.parametrize("epoch", [-1, "1", None])
def test_epochs_are_counted_from_0(epoch: Any) -> None:
    with pytest.raises(TrainingError, match="int >= 0"):
        OneCycle(make_model(), EXAMPLE, budget=HALF, epochs=2).start_epoch(epoch)


def test_the_first_batch_is_tried_unless_it_can_be_read_only_once() -> None:
    model, read = make_model().train(), iter(bright_rows(1))
    expected = torch.get_rng_state()
    OneCycle(model, EXAMPLE, budget=HALF, epochs=2, compensate=bright_rows(1), recalibrate=read)
    assert len(list(read)) == 1
    assert torch.equal(torch.get_rng_state(), expected)
    assert all(module.training for module in model.modules())
