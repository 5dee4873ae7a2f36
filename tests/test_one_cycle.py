"""One-cycle pruning from a user's own loop: phases, shrink, stability, removal, resuming, several ranks."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed, nn
from torch.nn.functional import cross_entropy

import icycle
from icycle.errors import BudgetError, StructureError, TrainingError
from icycle.methods import OneCycle, Phases
from icycle.methods.one_cycle._shrink import Shrink
from icycle.methods.one_cycle._stability import Stability
from icycle.selection import Budget
from icycle.structure import SubNetwork
from networks import residual_network as make_model

HALF = Budget(macs=0.5)
NEVER_STABLE = Phases(monitor_start=0, sparsity_start=0, sparsity_end=0.5, lag=0.9)


EXAMPLE = torch.zeros(1, 1, 8, 8)


def make_batches(count: int = 10, size: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Which of three rows is bright."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (count, size), generator=generator)
    inputs = torch.randn(count, size, 1, 8, 8, generator=generator)
    inputs[..., 0, 0, :] += 3.0 * (labels == 0)[..., None]
    inputs[..., 0, 3, :] += 3.0 * (labels == 1)[..., None]
    return list(zip(inputs, labels, strict=True))


def train(model: nn.Module, pruner: OneCycle, optimizer: torch.optim.Optimizer, epochs: range, batches: list) -> None:
    for epoch in epochs:
        pruner.start_epoch(epoch)
        for inputs, labels in batches:
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            pruner.after_step()


def idle(pruner: OneCycle, epochs: int, steps: int) -> None:
    """A run in which nothing is learnt."""
    for epoch in range(epochs):
        pruner.start_epoch(epoch)
        for _ in range(steps):
            pruner.after_step()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def gone(model: nn.Module, structure: icycle.Structure, subnet: SubNetwork) -> dict[str, torch.Tensor]:
    """For each parameter where (bool) the removal takes something, by the definition of the slices."""
    taken = {name: torch.zeros(parameter.shape, dtype=torch.bool) for name, parameter in model.named_parameters()}
    for group in structure.prunable:
        for piece in group.slices:
            if piece.parameter in taken:
                for positions, kept in zip(piece.index, subnet.keep[group.name], strict=True):
                    if not kept:
                        taken[piece.parameter].index_fill_(piece.dim, torch.tensor(positions), True)
    return taken


# Phases


def test_the_log_shrink_grows_quadratically_over_the_sparsity_phase() -> None:
    phases = Phases(sparsity_start=0.2, sparsity_end=0.6, shrink=8.0)
    assert [round(phases.shrunk_by(progress, 0.2), 9) for progress in (0.0, 0.2, 0.4, 0.6, 0.9)] == [0, 0, 2, 8, 8]
    by_itself = Phases(sparsity_end=0.6, ramp=0.2, shrink=8.0)
    assert [round(by_itself.shrunk_by(progress, 0.1), 9) for progress in (0.1, 0.2, 0.3, 0.5)] == [0, 2, 8, 8]
    assert by_itself.shrunk_by(0.5, None) == 0
    assert (by_itself.search_end, by_itself.removal_after(0.1), by_itself.removal_after(0.5)) == (
        pytest.approx(0.4), pytest.approx(0.3), 0.6,
    )  # fmt: skip


@pytest.mark.parametrize(
    "setting",
    [
        {"sparsity_start": 0.5, "sparsity_end": 0.4},
        {"monitor_start": -0.1},
        {"sparsity_end": 1.1},
        {"checks": 0},
        {"lag": 0.0},
        {"threshold": 0.0},
        {"threshold": 1.5},
        {"plateau": 0.96},
        {"ramp": 0.0},
        {"shrink": -1.0},
        {"shrink": math.nan},
    ],
)
def test_phases_out_of_range_are_errors(setting: dict) -> None:
    with pytest.raises(TrainingError, match="Expected"):
        Phases(**setting)


# The shrink


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


# Stability


def subnet_of(*kept: int) -> SubNetwork:
    keep = torch.zeros(8, dtype=torch.bool)
    keep[list(kept)] = True
    return SubNetwork({"g": keep})


def test_the_indicator_is_the_mean_similarity_to_the_sub_network_a_lag_before() -> None:
    stability = Stability(lag=0.2, window=0.2)
    found = [subnet_of(0, 1), subnet_of(1, 2), subnet_of(0, 1), subnet_of(1, 2, 3), subnet_of(0, 1), subnet_of(1, 2, 3)]
    indicators = []
    for number, subnet in enumerate(found):
        stability.add(number / 10, subnet)
        indicators.append(stability.indicator)
    # J with two before: -, -, {01}/{01} = 1, {123}/{12} = 2/3, 1, 1; the mean over 0.2 is over two of them
    assert indicators == [None, None, 1.0, pytest.approx(5 / 6), pytest.approx(5 / 6), pytest.approx(1.0)]


def test_the_search_is_stable_only_once_a_whole_window_says_so() -> None:
    stability = Stability(lag=0.1, window=0.2)
    reached = []
    for number in range(6):
        stability.add(number / 10, subnet_of(0, 1))
        reached.append(stability.reached(0.99))
    assert reached == [False, False, False, True, True, True]


def test_the_indicator_has_stopped_rising_once_no_new_best_has_come_for_long() -> None:
    stability = Stability(lag=0.1, window=0.0, rise=0.1)
    found = [(0,), (1,), (1, 2), (1, 2), (1, 2), (1, 2)]  # J: -, 0, 1/2, 1, 1, 1
    stopped = []
    for number, kept in enumerate(found):
        stability.add(number / 10, subnet_of(*kept))
        stopped.append(stability.stopped_rising(0.2))
    assert stopped == [False, False, False, False, False, True]


def test_searches_far_apart_compare_with_the_last_that_is_old_enough() -> None:
    stability = Stability(lag=0.05, window=0.05)
    for number in range(4):
        stability.add(number / 4, subnet_of(number % 2, 2))
    assert stability.indicator == pytest.approx(1 / 3)


# A run


def test_two_calls_prune_a_network_within_its_training() -> None:
    model, batches = make_model(), make_batches()
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
    model, batches = make_model(), make_batches()
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
    batches = make_batches()
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
        recalibrate=make_batches(),
    )  # fmt: skip
    idle(pruner, 2, 4)
    assert average[1].running_mean.any()  # type: ignore[union-attr, operator]
    assert [value.shape for value in average.state_dict().values()] == [v.shape for v in model.state_dict().values()]


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


# Resuming


def saved_and_read(state: dict, folder: Path) -> dict:
    """Through JSON and safetensors, as a checkpoint does it."""
    from safetensors.torch import load_file, save_file

    save_file({key: value for key, value in state.items() if isinstance(value, torch.Tensor)}, folder / "state")
    values = json.loads(json.dumps({key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}))
    return {**values, **load_file(folder / "state")}


@pytest.mark.parametrize("sparsity_start", [None, 0.1])
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_resumed_run_ends_like_an_uninterrupted_one(stop: int, sparsity_start: float | None, tmp_path: Path) -> None:
    batches, epochs = make_batches(), 8
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


# Several processes


def on_rank(rank: int, folder: str) -> None:
    """Ranks whose weights have drifted apart must still agree."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(rank)), alpha=0.1)
    pruner = OneCycle(model, EXAMPLE, budget=HALF, epochs=2, steps_per_epoch=10)
    idle(pruner, 2, 10)
    assert pruner.removed
    keep = torch.cat([kept.int() for kept in pruner.subnet.keep.values()])
    total = keep.clone()
    distributed.all_reduce(total)
    assert torch.equal(total, 2 * keep)
    with pytest.raises(TrainingError, match="same on all 2 ranks"):
        OneCycle(make_model(8 + 8 * rank), EXAMPLE, budget=HALF, epochs=2)
    distributed.barrier()  # a rank that leaves while another still talks to it aborts
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not distributed.is_available(), reason="torch is built without distributed")
def test_all_ranks_remove_what_the_first_decides(tmp_path: Path) -> None:
    mp.spawn(on_rank, args=(str(tmp_path),), nprocs=2)


def test_wrappers_are_looked_through() -> None:
    class Compiled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._orig_mod = inner

    model = make_model()
    assert OneCycle(nn.DataParallel(Compiled(model)), EXAMPLE, budget=HALF, epochs=2).model is model
