"""Latency on a target whose times are known: predictions are exact, budgets met, and what is out of reach is shown."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import icycle
from icycle import selection
from icycle.axes import Polynomial
from icycle.errors import BudgetError, LatencyError, StructureError
from icycle.latency import Call, Latency, Selector, Setting, Target, find_target, interleaved, register, targets
from icycle.latency._batches import inputs_at
from icycle.latency._cache import Cache
from icycle.latency._calls import call_of, parameters_read
from icycle.latency._grid import measured_table
from icycle.latency._prediction import Prediction, Term
from icycle.latency._timing import seconds_per_call
from icycle.latency._watch import never, others
from icycle.methods.ice._steps import plan_steps
from icycle.recipes import load_recipe
from icycle.structure import Structure, SubNetwork

STEP = 8  # the block of the made-up device


class Stopwatch:
    """A clock that work moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def block(size: int) -> int:
    return math.ceil(size / STEP) * STEP


def convolution_seconds(wide: int, out: int, positions: int) -> float:
    """Blocks of eight channels, and a fifth more where the channels that go out do not fill them."""
    return 1e-8 * positions * (wide if wide < STEP else block(wide)) * block(out) * (1.2 if out % STEP else 1.0)


def in_groups_seconds(channels: int, positions: int) -> float:
    """Next to nothing where the channels fill their blocks."""
    return 1e-9 * positions * channels * (100.0 if channels % STEP else 1.0)


@register
class MadeUp(Target):
    """Only convolutions take time; a whole network takes `whole` times as long, depending on the sum."""

    name = "made-up"
    watch = staticmethod(never)

    def __init__(self) -> None:
        self.stopwatch = Stopwatch()
        self.clock = self.stopwatch
        self.whole: Callable[[float], float] = lambda seconds: seconds
        self.each = 0.0  # seconds, for every parameter of a whole network
        self.noise: Iterator[float] = itertools.repeat(1.0)  # by which a measurement is too long
        self.timed = 0  # calls of `operation`

    def versions(self) -> dict[str, str]:
        return {}

    def network(self, model: nn.Module, inputs: Any, setting: Setting) -> Callable[[], object]:
        seconds = 0.0
        side = inputs.shape[-1]
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                seconds += self._alone(module.weight.shape, len(inputs) * side * side)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return self._taking(self.whole(seconds) + self.each * parameters)

    def operation(self, call: Call, sizes: Sequence[int], setting: Setting) -> Callable[[], object] | None:
        if not call.name.startswith("aten.convolution"):
            return None
        self.timed += 1
        (image, weight, *_), _ = call.at(sizes)
        batch, _, height, width = image.shape
        return self._taking(self._alone(weight.shape, batch * height * width))

    def _alone(self, weight: Sequence[int], positions: int) -> float:
        out, wide, *_ = weight
        return in_groups_seconds(out, positions) if wide == 1 < out else convolution_seconds(wide, out, positions)

    def seconds(self, call: Call, sizes: Sequence[int], setting: Setting) -> float:
        return super().seconds(call, sizes, setting) * next(self.noise)

    def _taking(self, seconds: float) -> Callable[[], object]:
        def run() -> None:
            self.stopwatch.now += seconds

        return run


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    monkeypatch.setenv("ICYCLE_CACHE", str(tmp_path))
    target = find_target("made-up")
    assert isinstance(target, MadeUp)
    target.whole, target.each, target.timed = (lambda seconds: seconds), 0.0, 0
    target.noise = itertools.repeat(1.0)
    return target


def chain(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for wide, out in itertools.pairwise((3, *widths)):
        layers += [nn.Conv2d(wide, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)).eval()


def prepared(*widths: int, batch: int = 2) -> tuple[nn.Module, Structure, dict[str, torch.Tensor]]:
    model = chain(*(widths or (64, 128, 64)))
    structure = icycle.trace(model, torch.randn(batch, 3, 8, 8))
    return model, structure, icycle.saliency.group_norm(model, structure)


def true_milliseconds(counts: Sequence[int], batch: int = 2) -> float:
    first, second, third = (int(count) for count in counts)
    pairs = ((3, first), (first, second), (second, third))
    return 1e3 * sum(convolution_seconds(wide, out, batch * 64) for wide, out in pairs)


BUDGET = icycle.Budget(latency=0.5, target="made-up")


# ---- prediction ----


def test_the_prediction_of_random_sub_networks_is_exact(device: MadeUp) -> None:
    model, structure, _ = prepared()
    latency = Latency(model, structure, BUDGET)
    for seed in range(20):
        subnet = SubNetwork.random(structure, [0.1, 0.3, 0.5, 0.7][seed % 4], seed)
        counts = subnet.counts(structure)
        assert latency.prediction(counts) == pytest.approx(true_milliseconds(counts), rel=1e-6)
        assert latency.measure(subnet) == pytest.approx(true_milliseconds(counts), rel=1e-6)


def test_sweeps_and_gradients_are_those_of_the_prediction(device: MadeUp) -> None:
    model, structure, _ = prepared()
    prediction = Latency(model, structure, BUDGET).prediction
    counts, values = np.array([64, 96, 40]), np.array([17, 24, 128])
    swept = prediction.sweep(counts, 1, values)
    assert swept == pytest.approx([prediction(np.array([64, value, 40])) for value in values])
    assert prediction.gradient(counts)[1] == pytest.approx(
        (prediction(counts) - prediction(np.array([64, 64, 40]))) / 32
    )


def test_the_batch_may_differ_from_the_traced_one(device: MadeUp) -> None:
    model, structure, _ = prepared(batch=1)
    latency = Latency(model, structure, icycle.Budget(latency=0.5, target="made-up", batch=16))
    assert latency.dense == pytest.approx(true_milliseconds((64, 128, 64), batch=16))
    assert latency.prediction(np.array([32, 40, 24])) == pytest.approx(true_milliseconds((32, 40, 24), batch=16))


def test_what_a_whole_network_takes_beside_its_operations_is_learnt(device: MadeUp) -> None:
    device.whole = lambda seconds: 2.5 * seconds + 1e-3
    model, structure, _ = prepared()
    prediction = Latency(model, structure, BUDGET).prediction
    assert list(prediction.weights.values())[:-2] == pytest.approx([2.5] * (len(prediction.kinds) - 2))
    assert prediction.offset == pytest.approx(1.0)


def test_what_it_takes_to_read_the_parameters_is_learnt(device: MadeUp) -> None:
    model = nn.Sequential(chain(64, 128, 64), nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, 200), nn.ReLU())
    structure = icycle.trace(model.eval(), torch.randn(2, 3, 8, 8))
    device.each = 2e-8
    latency = Latency(model, structure, BUDGET)
    for seed in range(5):
        subnet = SubNetwork.random(structure, 0.1 * seed + 0.2, seed)
        counts = subnet.counts(structure)
        right = true_milliseconds(counts[:3]) + 1e3 * device.each * structure.params(subnet)
        assert latency.prediction(counts) == pytest.approx(right, rel=0.04)


def test_what_it_takes_to_read_parameters_is_learnt_apart_where_channels_fill_their_blocks() -> None:
    """Two layers, one with many positions and few parameters, one the other way round."""
    layers = ((0, 1, 256), (1, 2, 4))  # groups that come in and go out, positions
    full = np.array([64, 256, 256])

    def milliseconds(counts: np.ndarray) -> float:
        alone = sum(convolution_seconds(counts[wide], counts[out], positions) for wide, out, positions in layers)
        read = sum(9 * counts[wide] * counts[out] * (counts[out] % STEP == 0) for wide, out, _ in layers)
        return float(1e3 * (alone + 1e-8 * read))

    terms = []
    for wide, out, positions in layers:
        alone = functools.partial(convolution_seconds, positions=positions)
        table = measured_table(full[[wide, out]].tolist(), (1, 1), lambda sizes, alone=alone: alone(*sizes))
        sizes = Polynomial.variable(wide), Polynomial.variable(out)
        terms.append(Term(table, sizes, Polynomial.constant(9) * sizes[0] * sizes[1], 1, "convolution"))
    draw = np.random.default_rng(0)
    networks = [full, *(draw.integers(2, full // STEP) * STEP - STEP // 2 * (draw.random(3) < 0.5) for _ in range(10))]
    plain = Prediction(tuple(terms), Polynomial.constant(0), full)
    fitted = plain.corrected(networks, [milliseconds(own) for own in networks])
    for _ in range(20):
        counts = draw.integers(16, full)
        assert fitted(counts) == pytest.approx(milliseconds(counts), rel=0.05)


def test_parameters_that_are_read_are_those_of_an_operation_but_not_of_a_lookup() -> None:
    model = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    structure = icycle.trace(model, torch.zeros(2, 3, dtype=torch.long))
    assert [group.size for group in structure.prunable] == [8, 16]
    read = sum((parameters_read(own)({0: 8, 1: 16}) for own in structure.operations if "mm" in own.name), start=0)
    assert read == (8 * 16 + 16) + (16 * 4 + 4)
    assert not any(parameters_read(own).terms for own in structure.operations if "embedding" in own.name)


def test_what_is_measured_while_something_else_runs_does_not_stay(device: MadeUp) -> None:
    device.noise = itertools.chain([1.0, 1.3, 1.0, 1.5] * 3, itertools.repeat(1.0))
    model, structure, _ = prepared()
    prediction = Latency(model, structure, BUDGET).prediction
    counts = np.array([40, 72, 24])
    assert prediction(counts) == pytest.approx(true_milliseconds(counts), rel=1e-6)


def test_an_operation_that_is_dear_at_odd_widths_alone_is_measured_there(device: MadeUp) -> None:
    """A runtime may have a fast way for convolutions in groups, but for multiples of some number of channels alone."""
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.Conv2d(64, 8, 1))
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), *convolutions).eval()
    structure = icycle.trace(model, torch.randn(2, 3, 8, 8))
    latency = Latency(model, structure, BUDGET)
    for counts in ([64, 63], [40, 37], [33, 48], [24, 18]):
        subnet = SubNetwork.first(structure, dict(zip(("0", "1"), counts, strict=True)))
        assert latency.prediction(np.array(counts)) == pytest.approx(latency.measure(subnet), rel=0.02)


def test_operations_are_timed_once_and_kept_on_disk(device: MadeUp) -> None:
    model, structure, _ = prepared()
    Latency(model, structure, BUDGET).prediction  # noqa: B018
    before = device.timed
    assert before > 0
    other = Latency(model, structure, BUDGET)
    assert other.prediction(other.full) == pytest.approx(true_milliseconds((64, 128, 64)))
    assert (
        device.timed - before <= 3
    )  # each distinct operation is made once more, to see whether it runs; none is timed


# ---- selection ----


@pytest.mark.parametrize("fraction", [0.35, 0.5, 0.8])
def test_half_the_latency_when_half_is_asked(device: MadeUp, fraction: float) -> None:
    model, structure, scores = prepared()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    subnet = icycle.select(structure, scores, icycle.Budget(latency=fraction, target="made-up"), model=model)
    counts = subnet.counts(structure)
    assert (counts % STEP == 0).all()
    assert true_milliseconds(counts) / true_milliseconds((64, 128, 64)) == pytest.approx(fraction, rel=0.03)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_time_in_milliseconds(device: MadeUp) -> None:
    model, structure, scores = prepared()
    asked = 0.6 * true_milliseconds((64, 128, 64))
    budget = icycle.Budget(latency=f"{asked:.6f} ms", target="made-up")
    subnet = icycle.select(structure, scores, budget, model=model)
    assert true_milliseconds(subnet.counts(structure)) == pytest.approx(asked, rel=0.03)


def test_a_wrong_prediction_is_corrected_by_what_is_measured(device: MadeUp) -> None:
    device.whole = lambda seconds: seconds**0.6  # no line fits that
    model, structure, scores = prepared()
    selector = Selector(structure, BUDGET, model)
    subnet = selector.measured(scores)
    assert selector.latency is not None
    assert selector.latency.measure(subnet) / selector.latency.dense == pytest.approx(0.5, rel=0.03)
    assert len(selector.attempts) > 1 and abs(selector.attempts[-1].excess) < abs(selector.attempts[0].excess)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_prediction_that_is_far_off_does_not_end_at_the_smallest(device: MadeUp, factor: float) -> None:
    """Narrow networks take much less, or more, than the line through the first three says."""
    model, structure, scores = prepared()
    selector = Selector(structure, BUDGET, model)
    assert selector.latency is not None
    selector.latency.prediction = selector.latency.prediction.scaled(factor)  # what was learnt is wrong
    subnet = selector.measured(scores)
    assert selector.latency.measure(subnet) / selector.latency.dense == pytest.approx(0.5, rel=0.03)


def test_what_is_out_of_reach_is_shown_with_the_smallest_latency(device: MadeUp) -> None:
    model, structure, scores = prepared()
    with pytest.raises(BudgetError, match="smallest sub-network takes") as error:
        icycle.select(structure, scores, icycle.Budget(latency=0.05, target="made-up"), model=model)
    smallest = true_milliseconds((16, 32, 16)) / true_milliseconds((64, 128, 64))
    assert f"({100 * smallest:.3g}%)" in str(error.value)


def test_a_target_that_times_no_operation_is_refused(device: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MadeUp, "operation", lambda self, call, sizes, setting: None)
    model, structure, scores = prepared()
    with pytest.raises(LatencyError, match=r"'made-up' .* times none"):
        icycle.select(structure, scores, BUDGET, model=model)


@pytest.mark.parametrize("below", [0.985, 0.9])
def test_prediction_and_measurement_agree_on_what_is_within_reach(device: MadeUp, below: float) -> None:
    model, structure, scores = prepared()
    smallest = true_milliseconds(selection.smallest(structure, scores).counts(structure))
    budget = icycle.Budget(latency=f"{below * smallest:.6f} ms", target="made-up")
    for choose in (Selector(structure, budget, model), Selector(structure, budget, model).measured):
        if below > 0.97:
            assert true_milliseconds(choose(scores).counts(structure)) == pytest.approx(smallest)
        else:
            with pytest.raises(BudgetError, match=rf"latency='{below * smallest:.6f} ms' .* the smallest sub-network"):
                choose(scores)


def test_where_nothing_is_prunable_that_is_the_error_and_not_the_target(device: MadeUp) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1)).eval()
    with pytest.raises(StructureError, match="at least one prunable group"):
        Selector(icycle.trace(model, torch.randn(1, 3, 8, 8)), BUDGET, model)


def test_times_are_kept_apart_by_how_torch_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = find_target("torch").versions()
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", not torch.backends.mkldnn.enabled)
    assert find_target("torch").versions() != versions


def test_latency_and_parameters_both_hold(device: MadeUp) -> None:
    model, structure, scores = prepared()
    for latency, params in ((0.5, 0.9), (0.9, 0.4)):
        budget = icycle.Budget(latency=latency, params=params, target="made-up")
        subnet = icycle.select(structure, scores, budget, model=model)
        assert structure.params(subnet) / structure.params() <= params + 0.01
        assert true_milliseconds(subnet.counts(structure)) / true_milliseconds((64, 128, 64)) <= latency * 1.03


def test_channels_that_cost_time_go_before_those_that_do_not(device: MadeUp) -> None:
    """Equal scores: a channel of the first layer costs two of the second."""
    model, structure, _ = prepared(64, 128)
    same = {group.name: torch.linspace(1, 2, group.size) for group in structure.prunable}
    counts = icycle.select(structure, same, BUDGET, model=model).counts(structure)
    assert counts[0] / 64 < counts[1] / 128


@pytest.mark.parametrize("seed", range(4))
def test_no_other_choice_loses_half_as_much(device: MadeUp, seed: int) -> None:
    """Against all sub-networks whose widths fill the device's blocks. The least sum of scores is not what one threshold
    gives, nor what is wanted: it takes nearly all of a few groups."""
    model, structure, _ = prepared()
    generator = torch.Generator().manual_seed(seed)
    scores = {
        group.name: torch.rand(group.size, generator=generator) * (0.3 + torch.rand(1, generator=generator))
        for group in structure.prunable
    }

    def lost(counts: Sequence[int]) -> float:
        pairs = zip(structure.prunable, counts, strict=True)
        return sum(float(scores[group.name].sort().values[: group.size - int(count)].sum()) for group, count in pairs)

    counts = icycle.select(structure, scores, BUDGET, model=model).counts(structure)
    allowed = max(true_milliseconds(counts), 0.5 * true_milliseconds((64, 128, 64)))
    every = itertools.product(range(16, 65, STEP), range(32, 129, STEP), range(16, 65, STEP))
    best = min(lost(other) for other in every if true_milliseconds(other) <= allowed * (1 + 1e-9))
    assert lost(counts) <= 2 * best


# ---- methods ----


def test_one_cycle_ends_within_the_latency(device: MadeUp) -> None:
    model, images = chain(64, 128, 64).train(), torch.randn(4, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = icycle.OneCycle(model, images[:2], budget=BUDGET, epochs=4, optimizer=optimizer, steps_per_epoch=2)
    for epoch in range(4):
        pruner.start_epoch(epoch)
        for _ in range(2):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
            pruner.after_step()
    assert pruner.removed
    assert any(abs(attempt.excess) <= 0.03 for attempt in pruner.attempts)
    counts = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert true_milliseconds(counts) / true_milliseconds((64, 128, 64)) == pytest.approx(0.5, rel=0.03)


def test_the_steps_of_ice_lead_to_the_latency(device: MadeUp) -> None:
    model, structure, scores = prepared()
    kept = {group.name: group.size for group in structure.prunable}
    measured: list[float] = []
    steps = plan_steps(
        structure,
        scores,
        budget=BUDGET,
        model=model,
        on_attempts=lambda tried: measured.extend(one.excess for one in tried),
    )
    for step in steps:
        kept.update(step.counts)
    assert min(abs(excess) for excess in measured) <= 0.03
    counts = list(kept.values())
    assert true_milliseconds(counts) / true_milliseconds((64, 128, 64)) == pytest.approx(0.5, rel=0.03)


def test_a_recipe_may_ask_for_a_latency() -> None:
    recipe = load_recipe("digits", ["method.budget={latency: 0.5, params: 0.8, target: onnxruntime, batch: 1}"])
    budget = recipe.method.budget.build()  # type: ignore[attr-defined]
    assert budget == icycle.Budget(latency=0.5, params=0.8, target="onnxruntime", batch=1)
    timed = load_recipe("digits", ["method.budget={latency: 12.5 ms}"]).method.budget.build()  # type: ignore[attr-defined]
    assert timed == icycle.Budget(latency="12.5 ms")


# ---- errors ----


def test_a_latency_needs_a_model_and_a_target_that_is_there() -> None:
    model, structure, scores = prepared()
    with pytest.raises(BudgetError, match="pass the model"):
        icycle.select(structure, scores, icycle.Budget(latency=0.5))
    with pytest.raises(LatencyError, match="out of"):
        icycle.select(structure, scores, icycle.Budget(latency=0.5, target="abacus"), model=model)
    if not targets()["onnxruntime"]:
        with pytest.raises(LatencyError, match="float32 on 'onnxruntime', but got 'bfloat16'; say precision='float32'"):
            icycle.latency.bench({"dense": model}, {}, "onnxruntime", precision="bfloat16")
    with pytest.raises(LatencyError, match="got 'half'"):
        icycle.latency.bench({"dense": model}, {}, "torch", precision="half")
    if targets()["cuda"]:
        with pytest.raises(LatencyError, match="no CUDA device"):
            icycle.select(structure, scores, icycle.Budget(latency=0.5, target="cuda"), model=model)


# ---- tables ----


@pytest.mark.parametrize(("step", "tail"), [(1, 1.0), (4, 1.0), (8, 1.5), (16, 1.0), (16, 2.0)])
def test_a_table_finds_the_block_of_a_device_and_what_odd_sizes_cost(step: int, tail: float) -> None:
    def seconds(sizes: tuple[int, ...]) -> float:
        one, two = sizes
        padded = math.ceil(one / step) * step
        return 1e-6 * (5 + padded * (two + 3)) * (tail if one % step else 1.0)

    table = measured_table((256, 128), (1, 1), seconds)
    sizes = np.array([[one, two] for one in (64, 77, 96, 130, 200, 255, 256) for two in (32, 64, 100, 128)])
    assert table(sizes) == pytest.approx([seconds((int(one), int(two))) for one, two in sizes], rel=1e-6)


def test_what_odd_sizes_cost_is_not_counted_twice() -> None:
    """A device with a fast way for inputs that are multiples of 4, in blocks of 16, and a slow one without blocks."""

    def seconds(sizes: tuple[int, ...]) -> float:
        wide, out = sizes
        if wide % 4:
            return 1e-6 * wide * out * (1.2 + 30 / out)
        return 1e-6 * math.ceil(wide / 16) * 16 * math.ceil(out / 16) * 16

    table = measured_table((128, 128), (1, 1), seconds)
    sizes = [(64, 64), (48, 33), (40, 100), (45, 48), (45, 33), (101, 77), (33, 128), (126, 126)]
    assert table(np.array(sizes)) == pytest.approx([seconds(own) for own in sizes], rel=0.08)


def test_even_sizes_lack_less_of_an_alignment_than_odd_ones() -> None:
    """A device that reads eight numbers at once, or four, or two, as the width allows."""
    slower = {1: 1.5, 2: 1.4, 4: 1.1, 8: 1.0}

    def seconds(sizes: tuple[int, ...]) -> float:
        wide, out = sizes
        return 1e-6 * (wide + 5) * (out + 3) * slower[math.gcd(wide, 8)] * slower[math.gcd(out, 8)]

    table = measured_table((192, 256), (1, 1), seconds)
    sizes = [(wide, out) for wide in (57, 58, 60, 64, 148, 191) for out in (128, 100, 90, 77)]
    assert table(np.array(sizes)) == pytest.approx([seconds(own) for own in sizes], rel=1e-6)


def test_a_jump_within_the_sizes_is_found() -> None:
    """torch takes another library for inputs of more than 20,480 numbers."""

    def seconds(sizes: tuple[int, ...]) -> float:
        return 1e-6 * sizes[0] * sizes[1] * (1.0 if sizes[0] > 104 else 2.0)

    table = measured_table((128, 64), (1, 1), seconds)
    sizes = [(128, 64), (112, 48), (90, 33), (96, 64), (61, 17)]
    assert table(np.array(sizes)) == pytest.approx([seconds(own) for own in sizes], rel=0.05)


def test_sizes_that_come_in_units_are_measured_in_units() -> None:
    asked = set()

    def seconds(sizes: tuple[int, ...]) -> float:
        asked.add(sizes[0])
        return 1e-6 * sizes[0]

    table = measured_table((12 * 64,), (64,), seconds)
    assert all(size % 64 == 0 for size in asked)
    assert len(asked) <= 6  # none to tell what sizes cost that do not come
    assert table(np.array([[5 * 64]])) == pytest.approx([320e-6])


@pytest.mark.parametrize("full", [(8,), (9, 8), (8, 9, 15), (2, 1, 3)])
def test_small_sizes_are_measured_at_one_at_the_least(full: tuple[int, ...]) -> None:
    """A device on which two channels take less than one."""
    for dear in itertools.product((False, True), repeat=len(full)):

        def seconds(sizes: tuple[int, ...], dear: tuple[bool, ...] = dear) -> float:
            assert min(sizes) >= 1
            odd = any(size % 2 and own for size, own in zip(sizes, dear, strict=True))
            return 1e-6 * math.prod(sizes) * (3.0 if odd else 1.0)

        table = measured_table(full, (1,) * len(full), seconds)
        assert table(np.array([full])) == pytest.approx(seconds(full), rel=0.5)


def test_operations_are_repeated_at_other_widths() -> None:
    """The number of groups and the shape of a norm follow the channels."""
    model = nn.Sequential(
        nn.Linear(4, 8), nn.Unflatten(1, (2, 4)), nn.Flatten(1), nn.LayerNorm(8), nn.Linear(8, 4)
    ).eval()
    structure = icycle.trace(model, torch.randn(2, 4))
    full = np.array([group.size for group in structure.prunable])
    calls = {call.name.split(".")[1]: call for call, _ in (call_of(one, full) for one in structure.operations)}
    assert calls["native_layer_norm"].at([5])[0][1] == (5,)

    depthwise = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 4, 1)).eval()
    structure = icycle.trace(depthwise, torch.randn(2, 3, 4, 4))
    (_, middle, _), full = structure.operations, np.array([16])
    call, sizes = call_of(middle, full)
    assert len(sizes) == 1 and call.at([6])[0][8] == 6  # groups


class _Heads(nn.Module):
    """Its last reshape joins the heads, whose number then has to go with the width."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.into(x).view(*x.shape[:2], -1, 4).transpose(1, 2).contiguous()
        return self.out(heads.transpose(1, 2).reshape(*x.shape[:2], -1))


def test_an_operation_whose_sizes_hang_together_is_timed_as_it_is() -> None:
    structure = icycle.trace(_Heads().eval(), torch.randn(2, 5, 6))
    calls = [call_of(operation, np.array([3]))[0] for operation in structure.operations]
    joined = [call for call in calls if call.name == "aten._unsafe_view.default" and len(call.full) == 2]
    assert joined and all(call.rigid for call in joined)
    for call in (call for call in calls if not call.rigid):
        for place, unit in enumerate(call.units):
            assert find_target("torch").operation(call, [*call.full[:place], unit, *call.full[place + 1 :]], Setting(2))


def test_poolings_are_graphs_of_their_own_with_and_without_all_their_arguments() -> None:
    if targets()["onnxruntime"]:
        pytest.skip(targets()["onnxruntime"])
    pools = (nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1))
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *pools, nn.Conv2d(8, 4, 1)).eval()
    structure = icycle.trace(model, torch.randn(1, 3, 16, 16))
    target, full = find_target("onnxruntime"), np.array([8])
    for operation in structure.operations[1:5]:
        call, _ = call_of(operation, full)
        assert target.operation(call, [5], Setting(1)) is not None, call.name


class Scaled(nn.Module):
    """Numbers and masks take part in what lies between two layers; the last input is not needed for the result."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        hidden = 0.5 * self.wide(x) + 1
        return self.out(hidden * mask.unsqueeze(-1)) * (1 if like.shape[0] else 0)


SCALED = (torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.int64), torch.randn(2, 3))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_runtimes_time_numbers_and_masks_as_operands_and_leave_out_what_is_not_needed(name: str) -> None:
    if targets()[name]:
        pytest.skip(targets()[name])
    model, target = Scaled().eval(), find_target(name)
    structure = icycle.trace(model, SCALED)
    calls = [call_of(operation, np.array([16]))[0] for operation in structure.operations]
    combined = [call for call in calls if call.name.split(".")[1] in ("mul", "add") and call.full]
    assert len(combined) == 3
    assert all(target.operation(call, [5], Setting(1)) is not None for call in combined)
    target.network(model, SCALED, Setting(1))()


def test_a_precision_that_openvino_does_not_run_in_here_is_refused() -> None:
    if targets()["openvino"]:
        pytest.skip(targets()["openvino"])
    import openvino

    if "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has it")
    with pytest.raises(LatencyError, match="in float16 on this processor, but it runs in"):
        find_target("openvino").network(Scaled().eval(), SCALED, Setting(1, "float16"))


def test_a_network_that_does_not_run_in_a_precision_says_so() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ torch.ones(8, 4)

    with pytest.raises(LatencyError, match="'torch' in bfloat16, but it raised RuntimeError"):
        find_target("torch").network(Constant(), torch.randn(2, 8), Setting(1, "bfloat16"))


# ---- batches ----


class Chosen(nn.Module):
    """Reads some of the positions, the same for all examples; the first input is one number for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, scale: torch.Tensor, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.wide(x[:, places] * scale)))


def test_another_batch_is_one_of_the_inputs_that_list_examples() -> None:
    model = Chosen().eval()
    structure = icycle.trace(model, (torch.ones(1), torch.randn(2, 6, 8), torch.tensor([0, 3])))
    scale, x, places = inputs_at(model, structure, 8)
    assert (scale.shape, x.shape, places.tolist()) == ((1,), (8, 6, 8), [0, 3])
    labelled = icycle.trace(Labelled().eval(), (torch.randn(2, 8), torch.tensor([0, 1])))
    assert [len(each) for each in inputs_at(Labelled(), labelled, 4)] == [4, 4]


class Labelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.out(torch.relu(self.wide(x))), labels, reduction="none")


def test_a_batch_that_the_outputs_do_not_follow_is_refused() -> None:
    class Mixed(Labelled):
        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.wide(x))).T

    model = Mixed().eval()
    structure = icycle.trace(model, (torch.randn(2, 8), torch.tensor([0, 1])))
    with pytest.raises(LatencyError, match="trace the model with the batch"):
        inputs_at(model, structure, 4)


# ---- timing ----


def test_readings_in_turn_and_low_quantiles_withstand_noise() -> None:
    clock = Stopwatch()
    noise = itertools.cycle([0.0, 0.0, 0.0, 0.0, 5.0])

    def taking(seconds: float) -> Callable[[], None]:
        def run() -> None:
            clock.now += seconds + next(noise) * seconds

        return run

    assert seconds_per_call(taking(1e-3), clock) == pytest.approx(1e-3)
    one, two = interleaved([taking(1e-3), taking(2e-3)], clock, rounds=20)
    assert len(one.readings) == len(two.readings) == 20
    assert one.median == pytest.approx(1e-3)


def test_a_reading_does_not_begin_with_the_caches_of_another() -> None:
    clock, latest = Stopwatch(), [0]

    def taking(name: int, seconds: float) -> Callable[[], None]:
        def run() -> None:
            clock.now += seconds if latest[0] == name else 2 * seconds
            latest[0] = name

        return run

    timings = interleaved([taking(1, 4e-3), taking(2, 1e-3)], clock, rounds=10)
    assert [timing.median for timing in timings] == pytest.approx([4e-3, 1e-3])


def test_readings_that_were_disturbed_do_not_count() -> None:
    clock, taken = Stopwatch(), 0
    pattern = itertools.cycle([0, 1, 1, 0, 1])  # disturbances in each call

    def run() -> None:
        nonlocal taken
        disturbed = next(pattern)
        taken += disturbed
        clock.now += 1e-3 + disturbed

    def watch() -> Callable[[float], bool]:
        before = taken
        return lambda seconds: taken > before

    timings = interleaved([run], clock, watch, rounds=10, seconds=100.0)
    assert timings[0].readings == pytest.approx([1e-3] * 10)
    hurried = interleaved([run], clock, lambda: lambda seconds: True, rounds=10, seconds=1.0)
    assert len(hurried[0].readings) >= 5
    assert seconds_per_call(run, clock, watch) == pytest.approx(1e-3)


def test_timing_waits_until_a_neighbour_has_gone() -> None:
    clock = Stopwatch()

    def taking(seconds: float) -> Callable[[], None]:
        def run() -> None:
            clock.now += seconds * (2.0 if clock.now < 2.5 else 1.0)

        return run

    def watch() -> Callable[[float], bool]:
        before = clock.now
        return lambda seconds: before < 2.5

    (timing,) = interleaved([taking(0.1)], clock, watch, rounds=100, seconds=1.0)
    assert timing.readings == pytest.approx([0.1] * len(timing.readings))


def test_a_processor_that_is_slower_than_usual_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = 1.0
    monkeypatch.setattr("icycle.latency._watch._probe", lambda: 1e-5 / speed)
    monkeypatch.setattr("icycle.latency._watch._probes", [])
    assert not any(others()(100.0) for _ in range(10))
    disturbed = others()
    speed = 0.7
    assert disturbed(100.0)
    assert others()(100.0)
    speed = 1.0
    assert not others()(100.0)


# ---- the cache ----


def test_the_cache_keeps_conditions_apart_and_survives_damage(tmp_path: Path) -> None:
    first, other = Cache(tmp_path, {"threads": "1"}), Cache(tmp_path, {"threads": "2"})
    first.put("conv", (8, 16), 0.25)
    first.write()
    assert Cache(tmp_path, {"threads": "1"}).get("conv", (8, 16)) == 0.25
    assert Cache(tmp_path, {"threads": "2"}).get("conv", (8, 16)) is None
    late = Cache(tmp_path, {"threads": "1"})
    first.put("conv", (8, 8), 0.125)
    first.write()
    late.put("pool", (8,), 0.5)
    late.write()  # keeps what the first has written meanwhile
    assert Cache(tmp_path, {"threads": "1"}).get("conv", (8, 8)) == 0.125
    first.file.write_text("{")
    assert Cache(tmp_path, {"threads": "1"}).get("conv", (8, 16)) is None
    assert other.file != first.file


# ---- real targets ----


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_a_real_target_measures_and_predicts(name: str, tmp_path: Path) -> None:
    if targets()[name]:
        pytest.skip(targets()[name])
    model, structure, _ = prepared()
    latency = Latency(model, structure, icycle.Budget(latency=0.5, target=name, threads=1), cache=tmp_path)
    assert latency.dense > 0 and latency.prediction(latency.full) > 0
    assert list(tmp_path.iterdir())
