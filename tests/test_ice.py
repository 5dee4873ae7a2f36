"""ICE: the curve, the steps, the trigger, freezing, and whole runs from a user's code and from recipes."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

import icycle
from icycle.errors import BudgetError, CriterionError, DataError, RecipeError, StructureError, TrainingError
from icycle.methods import Context, Curve, FineTune, IceResult, pruning_aware_rate
from icycle.methods._training import OwnTraining
from icycle.methods.ice._freeze import Frozen, choose_frozen, layers_of, movement
from icycle.methods.ice._steps import Step, channels_to_keep, plan_steps
from icycle.methods.ice._trigger import ExactTrigger, SequentialTrigger, size_needed
from icycle.recipes import Recipe, RunFolder, load_recipe, run_recipe
from icycle.selection import Budget
from icycle.structure import SubNetwork, after_removal
from icycle.training import Recorder, TrainSettings, evaluate
from icycle.zoo import SealedLoader, build_model, load_data
from networks import residual_network as make_model

EXAMPLE = torch.zeros(2, 1, 8, 8)


def make_batches(count: int = 12, size: int = 16, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Which of three rows is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count, size), generator=generator)
    inputs = torch.randn(count, size, 1, 8, 8, generator=generator)
    inputs[..., 0, 0, :] += 3.0 * (labels == 0)[..., None]
    inputs[..., 0, 3, :] += 3.0 * (labels == 1)[..., None]
    return list(zip(inputs, labels, strict=True))


BATCHES, VALIDATION = make_batches(), make_batches(seed=1)


def train(model: nn.Module, rates: list[float], optimizer: torch.optim.Optimizer | None = None) -> None:
    """One pass over `BATCHES` for each rate."""
    optimizer = optimizer or torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    model.train()
    for rate in rates:
        for inputs, labels in BATCHES:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()


@pytest.fixture(scope="module")
def trained_once() -> nn.Module:
    torch.set_num_threads(1)
    model = make_model()
    train(model, [0.1, 0.1, 0.05, 0.01])
    assert accuracy_of(model) > 95
    return model


@pytest.fixture
def trained(trained_once: nn.Module) -> nn.Module:
    return copy.deepcopy(trained_once)


def accuracy_of(model: nn.Module) -> float:
    return evaluate(model, VALIDATION)


class Asked:
    """A user's training code that remembers what it was asked for."""

    def __init__(self) -> None:
        self.requests: list[FineTune] = []

    def __call__(self, model: nn.Module, request: FineTune) -> None:
        self.requests.append(request)
        train(model, [request.learning_rate])


def prune(model: nn.Module, fine_tune: Any = None, **settings: Any) -> IceResult:
    """`icycle.ice` on the toy task; half of every group unless told otherwise."""
    target = {} if "budget" in settings else {"ratio": 0.5}
    given = {"evaluate": accuracy_of, "calibration": BATCHES, **target, **settings}
    return icycle.ice(model, EXAMPLE, fine_tune=fine_tune or Asked(), **given)


# The learning rate's curve


@pytest.mark.parametrize(
    ("x", "p", "beta", "expected"),
    [
        (0.8, 0.2, 40.0, 0.015),  # x = 1 - p: half-way, whatever beta is
        (0.5, 0.5, 3.0, 0.015),
        (0.0, 0.2, 40.0, 0.010),  # nothing left
        (1.0, 0.2, 40.0, 0.02 - 0.01 / (1 + (1 / 0.6) ** 40)),
        (0.25, 0.5, 1.0, 0.02 - 0.0075),  # the fraction is 1/3, 1 + 1/3 = 4/3
        (0.75, 0.5, 2.0, 0.02 - 0.001),  # the fraction is 3, 1 + 9 = 10
        (0.8, 0.6, 40.0, 0.02),  # x = 2 (1 - p): the fraction is infinite
        (0.9, 0.6, 40.0, 0.02),  # beyond
    ],
)
def test_the_rate_is_the_formula_s(x: float, p: float, beta: float, expected: float) -> None:
    assert pruning_aware_rate(x, base=0.02, delta=0.01, p=p, beta=beta) == pytest.approx(expected, abs=1e-15)
    assert Curve(0.02, 0.01, p, beta)(x) == pytest.approx(expected, abs=1e-15)


def test_the_rate_falls_as_weights_go_and_never_overflows() -> None:
    rates = [pruning_aware_rate(x / 100, base=0.02, delta=0.01, p=0.3, beta=1e6) for x in range(101)]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (pytest.approx(0.01), pytest.approx(0.02))
    assert Curve(0.02, 0.01).flat()(0.0) == 0.02


@pytest.mark.parametrize(
    "wrong", [{"base": 0.0}, {"delta": 0.02}, {"delta": -0.1}, {"p": 1.0}, {"beta": 0.0}, {"base": math.nan}]
)
def test_a_curve_out_of_range_is_an_error(wrong: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="Expected base > 0"):
        Curve(**{"base": 0.02, "delta": 0.01, **wrong})


# The trigger


def answers(right: np.ndarray) -> Any:
    """`right(model)` that ignores the model: bool answers, in batches of 10."""

    def batches(model: nn.Module) -> Iterator[torch.Tensor]:
        yield from torch.from_numpy(right).split(10)

    return batches


def sequential(dense: np.ndarray, now: np.ndarray, threshold: float, confidence: float) -> Any:
    trigger = SequentialTrigger(nn.Identity(), answers(dense), threshold, confidence)
    trigger._correct = answers(now)
    return trigger(nn.Identity())


@pytest.mark.parametrize(("threshold", "confidence"), [(1.0, 0.95), (5.0, 0.9), (10.0, 0.99)])
def test_the_size_needed_is_the_least_that_passes_an_unchanged_network(threshold: float, confidence: float) -> None:
    t = threshold / 100
    wealth = np.ones(20)
    examples = 0
    while wealth.mean() < 1 / (1 - confidence):
        wealth *= 1 + np.arange(1, 21) / 20 / (1 - t) * t
        examples += 1
    assert size_needed(threshold, confidence) == examples


def test_an_unchanged_network_passes_and_a_broken_one_fires_before_the_split_is_read() -> None:
    dense = np.ones(2000, dtype=bool)
    same = sequential(dense, dense, 5.0, 0.95)
    assert not same.fire
    assert same.confident
    assert same.examples == 10 * math.ceil(size_needed(5.0, 0.95) / 10)
    assert same.share == same.examples / 2000
    broken = sequential(dense, np.arange(2000) % 2 == 0, 5.0, 0.95)
    assert broken.fire
    assert broken.share < 0.05
    assert broken.accuracy == 50.0
    assert broken.drop == 50.0


def test_where_the_split_ends_first_its_average_decides() -> None:
    dense = np.ones(400, dtype=bool)
    for lost, fire in ((19, False), (20, True), (21, True)):
        now = np.ones(400, dtype=bool)
        now[np.linspace(0, 399, lost).astype(int)] = False
        decision = sequential(dense, now, 5.0, 0.95)
        assert (decision.fire, decision.confident, decision.share) == (fire, False, 1.0)


def test_what_is_gained_makes_up_for_what_is_lost() -> None:
    dense, now = np.arange(400) % 2 == 0, np.arange(400) % 2 == 1
    decision = sequential(dense, now, 5.0, 0.95)
    assert decision.drop == 0.0
    assert not decision.fire


@pytest.mark.parametrize(("drop", "wrong"), [(0.1, False), (0.0999, True)])
def test_a_decision_is_wrong_no_more_often_than_stated(drop: float, wrong: bool) -> None:
    """At the threshold itself, the hardest case: confident decisions of the wrong kind out of 400 splits."""
    dice = np.random.default_rng(0)
    dense = np.ones(1000, dtype=bool)
    mistakes = 0
    for _ in range(400):
        decision = sequential(dense, dice.random(1000) >= drop, 10.0, 0.9)
        mistakes += decision.confident and decision.fire == wrong
    assert mistakes / 400 <= 0.1


def test_a_split_too_small_for_the_confidence_names_the_size_needed() -> None:
    needed = size_needed(1.0, 0.99)
    SequentialTrigger(nn.Identity(), answers(np.ones(needed, dtype=bool)), 1.0, 0.99)
    with pytest.raises(DataError, match=f"at least {needed} validation examples"):
        SequentialTrigger(nn.Identity(), answers(np.ones(needed - 1, dtype=bool)), 1.0, 0.99)


def test_a_split_that_grows_is_an_error() -> None:
    with pytest.raises(DataError, match="same examples"):
        sequential(np.ones(200, dtype=bool), np.arange(400) % 25 > 0, 5.0, 0.95)


def test_exact_evaluation_compares_with_the_threshold() -> None:
    assert ExactTrigger(lambda _: 89.0, 90.0, 1.0)(nn.Identity()).fire
    decision = ExactTrigger(lambda _: 89.5, 90.0, 1.0)(nn.Identity())
    assert (decision.fire, decision.accuracy, decision.drop, decision.share) == (False, 89.5, 0.5, 1.0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "nan"),
        ("90", "str"),
        (None, "NoneType"),
        (torch.tensor(90.0), "item"),
        (True, "bool"),
        (101.0, "101"),
    ],
)
def test_an_evaluate_that_is_no_percentage_is_a_clear_error(value: Any, words: str) -> None:
    with pytest.raises(TrainingError, match=r"Expected evaluate\(model\)") as caught:
        OwnTraining(Asked(), lambda _: value).evaluate(nn.Identity())
    assert words in str(caught.value)
    assert OwnTraining(Asked(), lambda _: np.float64(90)).evaluate(nn.Identity()) == 90.0


# The steps


def planned(model: nn.Module, **settings: Any) -> tuple[icycle.Structure, tuple[Step, ...]]:
    structure = icycle.trace(model, EXAMPLE)
    return structure, plan_steps(structure, icycle.saliency.group_norm(model, structure), **settings)


def test_a_ratio_takes_its_share_rounded_up_of_every_group_front_to_back() -> None:
    structure, steps = planned(make_model(), ratio=0.3, steps="group")
    assert [dict(step.counts) for step in steps] == [{name: 11} for name in ("0", "3.conv1", "4.conv1")]
    assert [group.name for group in structure.prunable] == ["0", "3.conv1", "4.conv1"]


def test_rounding_is_honoured_and_what_loses_nothing_is_no_step() -> None:
    _, steps = planned(make_model(), ratio=0.3, steps="group", round_to=8)
    assert all(count % 8 == 0 for step in steps for count in step.counts.values())
    with pytest.raises(TrainingError, match="removes none"):
        planned(make_model(), ratio=0.05, round_to=16)


@pytest.mark.parametrize("scope", ["group", "step", "global"])
@pytest.mark.parametrize("steps", ["group", "block", "all"])
def test_a_budget_is_met_whatever_the_steps(steps: Any, scope: Any) -> None:
    model = make_model(32)
    structure, found = planned(model, budget=Budget(macs=0.5), steps=steps, scope=scope)
    counts = {name: count for step in found for name, count in step.counts.items()}
    keep = {group.name: torch.arange(group.size) < counts.get(group.name, group.size) for group in structure.prunable}
    assert structure.macs(SubNetwork(keep)) / structure.macs() == pytest.approx(0.5, abs=0.02)
    if scope == "group":
        kept = [counts[group.name] / group.size for group in structure.prunable]
        assert max(kept) - min(kept) < 0.1


def test_neighbours_within_one_module_go_together() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x)

    pairs = nn.Sequential(Pair(), Pair(), nn.Linear(6, 3))
    structure = icycle.trace(pairs, torch.zeros(2, 6))
    steps = plan_steps(structure, icycle.saliency.l1(pairs, structure), ratio=0.5)
    assert [sorted(step.counts) for step in steps] == [["0.body.0", "0.body.2"], ["1.body.0", "1.body.2"]]


def test_patterns_and_lists_choose_groups() -> None:
    _, steps = planned(make_model(), ratio=0.5, groups=["*.conv1"])
    assert [list(step.counts) for step in steps] == [["3.conv1"], ["4.conv1"]]
    _, steps = planned(make_model(), ratio=0.5, steps=[["4.conv1"], ["0", "3.conv1"]])
    assert [list(step.counts) for step in steps] == [["4.conv1"], ["0", "3.conv1"]]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({}, TrainingError, "exactly one"),
        ({"ratio": 0.5, "budget": Budget(macs=0.5)}, TrainingError, "exactly one"),
        ({"ratio": 1.0}, BudgetError, "0 <= ratio < 1"),
        ({"budget": Budget(macs=0.001)}, BudgetError, "smallest"),
        ({"ratio": 0.5, "groups": ["nowhere.*"]}, StructureError, "nowhere"),
        ({"ratio": 0.5, "steps": "blok"}, TrainingError, "blok"),
        ({"ratio": 0.5, "steps": [["0"], ["0"]]}, StructureError, "each group once"),
        ({"ratio": 0.5, "steps": [["9"]]}, StructureError, "9"),
    ],
)
def test_steps_that_cannot_be_are_clear_errors(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        planned(make_model(), **settings)


def test_the_worst_channels_of_a_step_go_of_equals_the_first() -> None:
    structure = icycle.trace(make_model(4), EXAMPLE)
    scores = {name: torch.tensor([1.0, 0.0, 0.0, 2.0]) for name in ("0", "3.conv1", "4.conv1")}
    subnet = channels_to_keep(structure, scores, Step({"3.conv1": 3}))
    assert subnet.keep["3.conv1"].tolist() == [True, False, True, True]
    assert subnet.keep["0"].all()


@pytest.mark.parametrize("name", ["resnet20", "vgg16-bn", "mobilenet-v2", "densenet40"])
def test_the_structure_after_a_removal_is_what_a_trace_finds(name: str) -> None:
    model, example = build_model(name, num_classes=10, width=4), torch.zeros(1, 3, 32, 32)
    structure = icycle.trace(model, example)
    subnet = SubNetwork.random(structure, 0.5, seed=1)
    expected = icycle.trace(icycle.prune(model, structure, subnet), example)
    found = after_removal(structure, subnet)
    assert [(group.name, group.size) for group in found.prunable] == [(g.name, g.size) for g in expected.prunable]
    assert found.layouts == expected.layouts
    assert found.fingerprint == expected.fingerprint
    assert (found.macs(), found.params()) == (expected.macs(), expected.params())
    again = SubNetwork.random(expected, 0.3, seed=2)
    assert found.macs(again) == expected.macs(again)
    for group, other in zip(found.prunable, expected.prunable, strict=True):
        for piece, twin in zip(group.slices, other.slices, strict=True):
            assert (piece.parameter, piece.dim, piece.role) == (twin.parameter, twin.dim, twin.role)
            assert np.array_equal(piece.index, twin.index)


# Freezing


def test_movement_is_relative_and_the_published_one_cancels() -> None:
    before = {"a": [torch.tensor([3.0, 4.0])], "b": [torch.tensor([1.0]), torch.tensor([0.0])]}
    after = {"a": [torch.tensor([4.0, 3.0])], "b": [torch.tensor([1.0]), torch.tensor([2.0])]}
    assert movement(before, after) == pytest.approx({"a": math.sqrt(2) / 5, "b": 2.0})
    assert movement(before, after, "published") == pytest.approx({"a": 0.0, "b": 2.0})


def test_layers_take_their_norms_along_in_the_order_of_execution() -> None:
    layers = layers_of(make_model(), EXAMPLE)
    assert [(layer.name, layer.companions) for layer in layers] == [
        ("0", ("1",)),
        ("3.conv1", ("3.bn1",)),
        ("3.conv2", ("3.bn2",)),
        ("4.conv1", ("4.bn1",)),
        ("4.conv2", ("4.bn2",)),
        ("7", ()),
    ]
    assert [layer.macs for layer in layers] == [9 * 16 * 64, *[9 * 16 * 16 * 64] * 4, 16 * 3]


def test_the_least_moved_are_frozen_and_the_last_never() -> None:
    layers = layers_of(make_model(), EXAMPLE)
    moved = {layer.name: moved for layer, moved in zip(layers, [0.1, 0.5, 0.2, 0.4, 0.3, 0.0], strict=True)}
    assert [layer.name for layer in choose_frozen(layers, moved, 0.5)] == ["0", "3.conv2", "4.conv2"]
    inner = choose_frozen(layers, moved, 0.5, ends_train=True)
    assert [layer.name for layer in inner] == ["3.conv2", "4.conv1", "4.conv2"]
    assert len(choose_frozen(layers, moved, 0.34)) == 3  # of 6, rounded up
    assert len(choose_frozen(layers, moved, 0.99)) == 5


def freeze(model: nn.Module, count: int, example: torch.Tensor = EXAMPLE) -> Frozen:
    layers = layers_of(model, example)
    return Frozen(model, example, layers, layers[:count])


@pytest.mark.parametrize(
    ("count", "cut", "last"),
    [(0, None, None), (1, "2", "2"), (2, "2", "3.bn1"), (3, "3", "3"), (4, "3", "4.bn1"), (5, "6", "6")],
)
def test_the_prefix_ends_at_the_first_layer_that_trains_and_is_cut_where_that_can_be_proven(
    count: int, cut: str | None, last: str | None
) -> None:
    frozen = freeze(make_model(), count)
    assert frozen.cut == cut
    assert (last in frozen.prefix) if last else not frozen.prefix


def test_the_backward_pass_ends_at_the_prefix_which_stays_in_evaluation_mode() -> None:
    model = make_model()
    frozen = freeze(model, 3)
    inner = {}
    model[3].register_forward_hook(lambda module, inputs, output: inner.update(prefix=output.requires_grad))
    model[4].register_forward_hook(lambda module, inputs, output: inner.update(rest=output.requires_grad))
    mean = model[1].running_mean.clone()  # type: ignore[union-attr, operator]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with frozen.applied(model):
        train(model, [0.1])
    after = dict(model.named_parameters())
    assert inner == {"prefix": False, "rest": True}
    assert torch.equal(model[1].running_mean, mean)  # type: ignore[arg-type]
    assert {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])} == {"4", "7"}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_frozen_layers_behind_one_that_trains_stay_as_they_are_too() -> None:
    model = make_model()
    layers = layers_of(model, EXAMPLE)
    frozen = Frozen(model, EXAMPLE, layers, layers[2:3])
    assert frozen.prefix == ()
    assert frozen.cut is None
    assert 0 < frozen.saved < 1 / 3
    before = model[3].conv2.weight.detach().clone()  # type: ignore[union-attr]
    with frozen.applied(model):
        train(model, [0.1])
    assert torch.equal(model[3].conv2.weight, before)  # type: ignore[union-attr]


def test_stored_outputs_give_the_same_function_and_gradients() -> None:
    model = make_model()
    train(model, [0.05])
    frozen = freeze(model, 3)
    inputs, labels = BATCHES[0]

    def gradients() -> list[torch.Tensor]:
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    with frozen.applied(model):
        model.train()
        model.zero_grad()
        state = copy.deepcopy(model.state_dict())
        cross_entropy(model(inputs), labels).backward()
        expected = gradients()
        model.zero_grad()
        model.load_state_dict(state)
        replay = frozen.replay(model)
        assert replay is not None
        stored = replay.outputs(lambda: model(inputs))
        with replay:
            replay.feed(stored)
            cross_entropy(model(torch.full_like(inputs, math.nan)), labels).backward()
            found = gradients()
            replay.feed(None)
            assert model.eval()(inputs).isfinite().all()
    assert len(expected) == len(found) > 4
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert "forward" not in vars(model[3])


def test_a_model_that_needs_its_input_again_is_not_cut() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.cat([self.first(x), x], dim=1))

    model = Again()
    frozen = freeze(model, 1, torch.zeros(2, 4))
    assert frozen.prefix == ("first",)
    assert frozen.cut is None
    assert frozen.replay(model) is None


@pytest.mark.parametrize("name", ["resnet20", "vgg16-bn", "mobilenet-v2", "densenet40"])
def test_every_family_s_prefix_can_be_cut(name: str) -> None:
    model, example = build_model(name, num_classes=10, width=4), torch.zeros(2, 3, 32, 32)
    frozen = freeze(model, len(layers_of(model, example)) // 2, example)
    assert frozen.cut is not None
    assert frozen.prefix_share > 0.2


# A user's own training code


def test_a_step_that_recalibration_repairs_triggers_no_fine_tune(trained: nn.Module) -> None:
    with_it, without_it = Asked(), Asked()
    repaired = prune(copy.deepcopy(trained), with_it, ratio=0.25, threshold=10.0, final_epochs=0, compensate=False)
    broken = prune(trained, without_it, ratio=0.25, threshold=10.0, final_epochs=0, compensate=False, calibrate=False)
    assert with_it.requests == []
    assert repaired.fine_tunes == 0
    assert repaired.accuracy > 90
    assert broken.fine_tunes > 0
    assert [request.kind for request in without_it.requests] == ["step"] * broken.fine_tunes


def test_a_run_prunes_in_place_and_tells_what_it_did(trained: nn.Module) -> None:
    asked, seen = Asked(), []
    macs = icycle.trace(trained, EXAMPLE).macs()
    result = prune(trained, asked, budget=Budget(macs=0.5), on_step=seen.append, validation=VALIDATION, threshold=20.0)
    assert result.model is trained
    assert result.macs_before == macs
    assert result.structure.macs() == icycle.trace(trained, EXAMPLE).macs() == pytest.approx(0.5 * macs, rel=0.03)
    assert result.steps == seen
    assert [step.number for step in seen] == [1, 2, 3]
    assert [step.weights for step in seen] == sorted((step.weights for step in seen), reverse=True)
    assert 0 < result.share_read <= 1
    assert result.accuracy == accuracy_of(trained) > 90
    assert result.dense_accuracy > 95
    assert [request.kind for request in asked.requests][-2:] == ["final", "final"]
    assert result.epochs == result.epoch_equivalents == len(asked.requests)
    assert set(result.seconds) >= {"search", "recalibration", "evaluation", "fine-tuning"}


def test_without_a_trigger_every_step_is_followed_by_a_fine_tune(trained: nn.Module) -> None:
    asked = Asked()
    result = prune(trained, asked, threshold=None, final_epochs=0)
    assert result.fine_tunes == len(result.steps) == len(asked.requests) == 3
    assert [step.fine_tuned for step in result.steps] == [1.0] * 3
    assert result.share_read == 0


def test_the_rate_follows_the_curve_and_runs_to_zero_or_stays(trained: nn.Module) -> None:
    curve = Curve(base=0.02, delta=0.015, p=0.4, beta=4.0)
    asked = Asked()
    result = prune(copy.deepcopy(trained), asked, threshold=None, curve=curve, final_epochs=2)
    rates = [curve(step.weights) for step in result.steps]
    assert [request.learning_rate for request in asked.requests[:3]] == rates
    assert [request.end for request in asked.requests[:3]] == [0.0] * 3
    first, second = asked.requests[3:]
    assert (first.learning_rate, first.end) == pytest.approx((2 * rates[-1], rates[-1]))
    assert (second.learning_rate, second.end) == pytest.approx((rates[-1], 0.0))
    assert first.rate(0.5) == pytest.approx(1.5 * rates[-1])
    assert (first.epochs_left, second.epochs_left) == (2, 1)
    constant = Asked()
    prune(trained, constant, threshold=None, curve=curve, decay=False, final_epochs=1, final_decay=False)
    assert all(request.learning_rate == request.end for request in constant.requests)
    assert [request.learning_rate for request in constant.requests] == [*rates, 2 * rates[-1]]


def test_the_first_step_is_the_probe_and_what_it_froze_stays(trained: nn.Module) -> None:
    before: dict[str, torch.Tensor] = {}
    asked = Asked()

    def fine_tune(model: nn.Module, request: FineTune) -> None:
        if request.frozen is not None and not before:
            before.update({name: value.detach().clone() for name, value in model.named_parameters()})
        asked(model, request)

    result = prune(trained, fine_tune, freeze=0.5, threshold=99.0, steps=[["4.conv1"]], probe_epochs=0.5)
    assert [request.kind for request in asked.requests] == ["probe", "final", "final"]
    assert asked.requests[0].epochs == 0.5
    assert asked.requests[0].frozen is None
    assert result.frozen is not None
    assert len(result.frozen.layers) == 3
    assert result.epoch_equivalents < result.epochs == 2.5
    still = {name for layer in result.frozen.layers for name in layer.modules}
    for name, value in result.model.named_parameters():
        assert torch.equal(value, before[name]) == (name.rpartition(".")[0] in still)


def test_momentum_is_sliced_and_the_optimizer_lives_on(trained: nn.Module) -> None:
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9)
    train(trained, [0.01], optimizer)

    def fine_tune(model: nn.Module, request: FineTune) -> None:
        train(model, [request.learning_rate], optimizer)

    result = prune(trained, fine_tune, optimizer=optimizer, threshold=None)
    parameters = list(result.model.parameters())
    assert {id(parameter) for parameter in optimizer.param_groups[0]["params"]} == {id(each) for each in parameters}
    assert all(optimizer.state[each]["momentum_buffer"].shape == each.shape for each in parameters)


def test_the_final_fine_tune_stops_early_and_keeps_the_best(trained: nn.Module) -> None:
    accuracies = iter([99.0, 50.0, 80.0, 90.0, 85.0, 84.0, 83.0])  # dense, after the steps, then epoch by epoch
    states: list[torch.Tensor] = []

    def fine_tune(model: nn.Module, request: FineTune) -> None:
        train(model, [0.01])
        states.append(model[7].weight.detach().clone())  # type: ignore[index]

    result = prune(
        trained, fine_tune, evaluate=lambda _: next(accuracies), threshold=90.0, confidence=None, steps="all",
        final_epochs=9, patience=2, budget=Budget(macs=0.9),
    )  # fmt: skip
    # one evaluation by the trigger: 50; before the final: 80; then 90, 85, 84
    assert len(states) == 3
    assert result.accuracy_before_final == 80.0
    assert result.accuracy == 90.0
    assert torch.equal(result.model[7].weight, states[0])  # type: ignore[index]


def test_equal_seeds_give_equal_decisions_and_sub_networks(trained: nn.Module) -> None:
    settings = {"validation": VALIDATION, "threshold": 15.0, "freeze": 0.3, "criterion": "random", "seed": 3}
    first, second = (prune(copy.deepcopy(trained), **settings) for _ in range(2))
    assert first.steps == second.steps
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


@pytest.mark.parametrize("criterion", sorted(icycle.saliency.CRITERIA))
def test_every_criterion_can_choose(trained: nn.Module, criterion: str) -> None:
    result = prune(trained, criterion=criterion, loader=BATCHES, loss=cross_entropy, final_epochs=0, threshold=99.0)
    assert result.structure.macs() < result.macs_before


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"threshold": 0.0}, TrainingError, "greater than 0"),
        ({"threshold": 100.0}, TrainingError, "threshold=100.0: input should be less than 100"),
        ({"confidence": 1.0}, TrainingError, "confidence"),
        ({"freeze": 1.0}, TrainingError, "freeze=1.0"),
        ({"ratio": 1.0}, TrainingError, "ratio=1.0"),
        ({"ratio": -0.1}, TrainingError, "ratio"),
        ({"epochs": -1}, TrainingError, "epochs=-1"),
        ({"final_epochs": -1}, TrainingError, "final_epochs"),
        ({"limit": 0.0}, TrainingError, "limit"),
        ({"ratio": None}, TrainingError, "exactly one"),
        ({"treshold": 1.0}, TrainingError, "treshold"),
        ({"criterion": "l3"}, CriterionError, "l3"),
        ({"criterion": "taylor", "calibration": None}, CriterionError, "loader is None"),
        ({"criterion": "taylor", "loader": BATCHES}, CriterionError, "loss is None"),
        ({"evaluate": lambda _: math.nan}, TrainingError, "0..100"),
        ({"evaluate": lambda _: torch.tensor(90.0)}, TrainingError, "float"),
        ({"evaluate": lambda _: 0.93}, TrainingError, "share"),
        ({"validation": VALIDATION[:2], "threshold": 1.0}, DataError, "at least"),
    ],
)
def test_what_cannot_work_is_said_before_any_training(
    trained: nn.Module, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    asked = Asked()
    state = copy.deepcopy(trained.state_dict())
    with pytest.raises(error, match=words):
        prune(trained, asked, **settings)
    assert asked.requests == []
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())


# Recipes


TINY = ("train.epochs=2", "model.width=8", "data.subset=600", "data.validation=0.2", "method.round_to=1")
CLOCK = ("train", "fine-tuning", "probing", "evaluation", "recalibration", "search")


def recipe_of(method: str, *overrides: str) -> Recipe:
    """A tiny recipe: the trained digits network, half its MACs."""
    own = () if method == "ice" else (f"method.name={method}", "method.budget.macs=0.5", "method.steps=group")
    return load_recipe("digits-ice", [*own, *TINY, *overrides])


def records(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    written = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [record for record in written if record["kind"] == kind]


def test_the_recipe_runs_end_to_end(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    report = run_recipe(recipe_of("ice"), folder)
    assert report.pruned.macs / report.dense.macs == pytest.approx(0.5, abs=0.03)
    assert all(report.seconds[stage] > 0 for stage in CLOCK)
    steps = records(folder, "step")
    assert [step["number"] for step in steps] == [1, 2, 3, 4]
    assert all(0 < step["decision"]["share"] <= 1 for step in steps)
    assert report.details["steps"] == 4
    assert report.details["share of the layers frozen"] > 0
    assert json.loads(folder.report.read_text())["details"] == json.loads(json.dumps(dict(report.details)))


def test_a_resumed_run_writes_every_step_once(tmp_path: Path) -> None:
    def stop(record: Any) -> None:
        if record["kind"] == "step" and record["number"] == 2:
            raise KeyboardInterrupt

    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe_of("ice"), folder, listeners=[stop])
    run_recipe(recipe_of("ice"), folder, resume=True)
    assert [step["number"] for step in records(folder, "step")] == [1, 2, 3, 4]
    assert [epoch["epoch"] for epoch in records(folder, "epoch")] == [1, 2]


@pytest.mark.parametrize(
    ("method", "steps", "fine_tunes", "reasons"),
    [
        ("iterative", 4, 4, ["step"] * 4),
        ("one-shot", 1, 0, ["final"] * 2),
        ("ice-published", 4, None, None),
    ],
)
def test_the_baselines_run_behind_the_same_interface(
    tmp_path: Path, method: str, steps: int, fine_tunes: int | None, reasons: list[str] | None
) -> None:
    folder = RunFolder(tmp_path / "run")
    extra = ("method.final_epochs=2",) if method == "one-shot" else ()
    report = run_recipe(recipe_of(method, *extra), folder)
    assert report.details["steps"] == steps
    assert report.pruned.macs / report.dense.macs == pytest.approx(0.5, abs=0.03)
    if fine_tunes is not None:
        assert report.details["fine-tunes of steps"] == fine_tunes
        assert [record["reason"] for record in records(folder, "fine-tune")] == reasons
    if method == "ice-published":
        assert "recalibration" not in {stage for stage, spent in report.seconds.items() if spent > 0}


def test_every_method_removes_the_same_counts(tmp_path: Path) -> None:
    kept = []
    for method in ("ice", "iterative", "one-shot", "ice-published"):
        folder = RunFolder(tmp_path / method)
        run_recipe(recipe_of(method, "train.epochs=1"), folder)
        kept.append({name: count for step in records(folder, "step") for name, count in step["kept"].items()})
    assert kept[0] == kept[1] == kept[2] == kept[3]


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("method.threshold=null", lambda steps: all(step["fine_tuned"] > 0 for step in steps)),
        (
            "method.curve={base: 0.02, delta: 0}",
            lambda steps: len({step["learning_rate"] for step in steps} - {None}) <= 1,
        ),
        ("method.confidence=null", lambda steps: all(step["decision"]["share"] == 1 for step in steps)),
    ],
)
def test_each_part_can_be_switched_off(tmp_path: Path, override: str, shown: Any) -> None:
    folder = RunFolder(tmp_path / "run")
    run_recipe(recipe_of("ice", "train.epochs=1", override), folder)
    assert shown(records(folder, "step"))


def run_frozen(tmp_path: Path, name: str, reuse_mib: int, *overrides: str) -> tuple[RunFolder, Any]:
    folder = RunFolder(tmp_path / name)
    settings = ("method.freeze=0.6", "method.final_epochs=3", "method.patience=null", f"method.reuse_mib={reuse_mib}")
    return folder, run_recipe(recipe_of("ice", "data.augment=false", *settings, *overrides), folder)


def test_results_are_equal_with_and_without_reuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the last two layers frozen, whatever the probe says, so that there is a prefix."""
    monkeypatch.setattr("icycle.methods.ice._ice.choose_frozen", lambda layers, *rest, **named: tuple(layers[:3]))
    (stored, one), (plain, other) = (run_frozen(tmp_path, f"run{size}", size) for size in (64, 0))
    replayed = [record["replayed"] for record in records(stored, "fine-tune")]
    assert replayed[-3:] == [True, True, True]
    assert not any(replayed[:-3])  # what is wanted for one epoch is not worth storing
    assert not any(record["replayed"] for record in records(plain, "fine-tune"))
    assert one.validation_accuracy == other.validation_accuracy
    assert one.test_accuracy == other.test_accuracy
    losses = [[record["loss"] for record in records(folder, "fine-tune")] for folder in (stored, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("override", ["data.augment=true", "method.reuse_mib=0"])
def test_outputs_are_not_stored_where_inputs_change_or_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.setattr("icycle.methods.ice._ice.choose_frozen", lambda layers, *rest, **named: tuple(layers[:3]))
    folder, _ = run_frozen(tmp_path, "run", 64, "train.epochs=1", override)
    assert not any(record["replayed"] for record in records(folder, "fine-tune"))


def test_equal_seeds_give_equal_runs(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / name) for name in "ab"]
    first, second = (run_recipe(recipe_of("ice"), folder) for folder in folders)
    assert first.test_accuracy == second.test_accuracy
    assert records(folders[0], "step") == records(folders[1], "step")


class Forbidden:
    """A test set that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the test set was touched: {name}")

    def __iter__(self) -> Any:
        raise AssertionError("the test set was read")


def test_no_decision_touches_the_test_set() -> None:
    recipe = recipe_of("ice", "train.epochs=1")
    data = load_data(**recipe.data.model_dump(), batch_size=64)
    sealed = SealedLoader(Forbidden())  # type: ignore[arg-type]
    model = build_model("small-cnn", num_classes=10, in_channels=1, width=8)
    context = Context(model, data.__class__(**{**vars(data), "test": sealed}), TrainSettings(epochs=1), Recorder())
    recipe.method.prepare(context)
    recipe.method.run(context)
    assert not sealed.opened
    with pytest.raises(AssertionError, match="read"):
        list(sealed.open())


def test_a_network_is_trained_only_if_no_weights_are_given(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "dense")
    run_recipe(load_recipe("digits", ["method.name=dense", *TINY[:4]]), first)
    model = build_model("small-cnn", num_classes=10, in_channels=1, width=8)
    icycle.load(first.model, model)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    reports = []
    for place in (first.model, tmp_path / "weights.safetensors"):
        folder = RunFolder(tmp_path / f"from-{place.name}")
        reports.append(run_recipe(recipe_of("ice", f"model.weights={place}"), folder))
        assert records(folder, "epoch") == []
    assert reports[0].test_accuracy == reports[1].test_accuracy
    assert reports[0].seconds["train"] == 0


def test_weights_that_do_not_fit_are_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not a state dict")
    (tmp_path / "model.pt").write_bytes(b"pickled")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    faults = {"nowhere": "there is nothing", "bad": "cannot be read", "other": "does not fit"}
    places = {f"{name}.safetensors": words for name, words in faults.items()}
    for name, words in {**places, "model.pt": "safetensors"}.items():
        with pytest.raises(RecipeError, match=words):
            run_recipe(recipe_of("ice", f"model.weights={tmp_path / name}"), RunFolder(tmp_path / f"run-{name}"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("method.threshold=0", "method.threshold"),
        ("method.freeze=1.0", "method.freeze"),
        ("method.ratio=0.5", "exactly one"),
        ("method.criterion=l3", "l3"),
        ("method.curve={base: 0.01, delta: 0.02}", "delta"),
        ("method.tresh=1", "did you mean"),
    ],
)
def test_impossible_settings_are_clear_errors(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe("digits-ice", [override])


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("method.threshold=0.5", DataError, "validation examples"),
        ("method.budget.macs=0.001", BudgetError, "smallest"),
        ("method.groups=[nowhere]", StructureError, "nowhere"),
    ],
)
def test_what_cannot_work_is_said_before_the_network_is_trained(
    tmp_path: Path, override: str, error: type[Exception], words: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(error, match=words):
        run_recipe(recipe_of("ice", override), folder)
    assert not folder.path.exists(), "a refused run leaves nothing"
