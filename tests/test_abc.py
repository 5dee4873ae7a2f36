"""The bee colony: it finds what brute force finds, every shape meets the budget, a search that was cut ends alike."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from icycle.engine import trace
from icycle.errors import BudgetError, RecipeError, TrainingError
from icycle.latency import peak_activation_bytes
from icycle.methods import Abc, Context
from icycle.methods.abc import Colony
from icycle.methods.abc._colony import Counts
from icycle.methods.abc._memory import Memory
from icycle.methods.abc._shapes import Shapes
from icycle.recipes import Recipe, RunFolder, load_recipe, run_recipe
from icycle.runs import list_runs, seconds_spent
from icycle.saliency import group_norm
from icycle.structure import SubNetwork
from icycle.surgery import prune
from icycle.tracing import copy_of
from icycle.training import Recorder, TrainSettings
from icycle.zoo import build_model, load_data

TINY = (
    "method.name=abc",
    "method.sources=4",
    "method.cycles=2",
    "method.final_epochs=1",
    "train.epochs=2",
    "model.width=8",
    "data.subset=600",
    "data.validation=0.2",
    "method.round_to=1",
)


def context_of(width: int = 8) -> Context:
    torch.manual_seed(0)
    data = load_data("digits", batch_size=64, subset=600, validation=0.2)
    model = build_model("small-cnn", num_classes=10, in_channels=1, width=width)
    context = Context(model, data, TrainSettings(epochs=2, batch_size=64), Recorder())
    context.fit(context.trainer())
    return context


def shapes_of(context: Context, settings: Abc, memory: Memory | None = None) -> Shapes:
    structure = trace(context.model, context.example_inputs)
    scores = group_norm(context.model, structure)
    return Shapes(settings, context, structure, scores, memory or Memory())


@pytest.fixture(scope="module")
def trained() -> Context:
    return context_of()


# The colony


class Meadow:
    """A field of which all is known: four groups of eight, half of whose channels may stay, and one best shape."""

    sizes = (8, 8, 8, 8)
    best = (2, 7, 4, 3)

    def __init__(self) -> None:
        self.tasted: list[Counts] = []

    def scaled(self, shares: np.ndarray) -> Counts:
        wanted = np.maximum(shares, 1e-3)
        scales = np.linspace(0.01, 200, 20000)[:, None]
        counts = np.clip(np.round(scales * wanted * 8), 1, 8).sum(1)
        scale = scales[np.argmin(abs(counts - 16))]
        return tuple(int(count) for count in np.clip(np.round(scale * wanted * 8), 1, 8))

    def nectar(self, counts: Counts) -> float:
        self.tasted.append(counts)
        return -sum(abs(count - best) for count, best in zip(counts, self.best, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_the_colony_finds_the_best_shape_among_hundreds(seed: int) -> None:
    meadow = Meadow()
    everywhere = [c for c in itertools.product(range(1, 9), repeat=4) if sum(c) == 16]
    assert len(everywhere) > 300
    colony = Colony(meadow, np.random.default_rng(seed), start=[(4, 4, 4, 4)], size=8, changes=2, patience=5)
    while colony.best.nectar < max(map(Meadow().nectar, everywhere)):
        colony.cycle()
        assert len(set(meadow.tasted)) < len(everywhere), "no better than trying all"
    assert colony.best.counts == Meadow.best


def test_the_same_seed_tries_the_same_and_another_one_does_not() -> None:
    tried = []
    for seed in (0, 0, 1):
        meadow = Meadow()
        colony = Colony(meadow, np.random.default_rng(seed))
        for _ in range(3):
            colony.cycle()
        tried.append(meadow.tasted)
    assert tried[0] == tried[1] != tried[2]


def test_every_cycle_sends_as_many_employed_bees_and_onlookers_and_no_more_than_one_scout() -> None:
    meadow = Meadow()
    colony = Colony(meadow, np.random.default_rng(0), size=6, patience=1)
    assert len(meadow.tasted) == 6
    for _ in range(4):
        before = len(meadow.tasted)
        colony.cycle()
        assert 12 <= len(meadow.tasted) - before <= 13


def test_an_exhausted_source_is_left_and_the_best_is_remembered() -> None:
    meadow = Meadow()
    colony = Colony(meadow, np.random.default_rng(0), start=[Meadow.best], size=3, patience=2)
    for _ in range(20):
        colony.cycle()
    assert Meadow.best not in [source.counts for source in colony.sources]
    assert colony.best.counts == Meadow.best


# Shapes within a budget


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"macs": 0.25}, {"params": 0.4}, {"macs": 0.5, "params": 0.3}])
@pytest.mark.parametrize("width", [8, 24])
def test_every_shape_meets_the_budget_within_one_channel(width: int, budget: dict[str, float]) -> None:
    context = context_of() if width == 8 else Context(
        build_model("small-cnn", num_classes=10, in_channels=1, width=width),
        load_data("digits", batch_size=64, subset=600),
        TrainSettings(),
        Recorder(),
    )  # fmt: skip
    shapes = shapes_of(context, Abc(budget=budget, limit=1.0, limit_rate=100.0))
    structure = trace(context.model, context.example_inputs)
    random = np.random.default_rng(0)
    for _ in range(20):
        counts = np.array(shapes.scaled(1 - random.random(len(shapes.sizes))))
        gaps = {name: structure.costs[name](counts) - share * structure.cost(name) for name, share in budget.items()}
        binding = max(gaps, key=lambda name: gaps[name] / structure.cost(name))
        cost = structure.costs[binding]
        channel = max(cost(counts) - cost(np.maximum(counts - one, 1)) for one in np.eye(len(counts), dtype=np.int64))
        assert abs(gaps[binding]) <= channel
        assert (counts >= 1).all()
        assert (counts <= shapes.sizes).all()


def test_a_shape_has_the_ratios_that_were_asked_for_and_keeps_the_best_channels() -> None:
    context = context_of(width=16)
    shapes = shapes_of(context, Abc(budget={"macs": 0.2}, limit=1.0, limit_rate=100.0))
    structure = trace(context.model, context.example_inputs)
    shares = np.linspace(0.3, 0.9, len(shapes.sizes))
    counts = shapes.scaled(shares)
    scale = sum(counts) / (shares * shapes.sizes).sum()
    assert np.abs(np.array(counts) - scale * shares * shapes.sizes).max() <= 1.5
    scores = group_norm(context.model, structure)
    for name, kept in shapes.subnet(counts).keep.items():
        assert scores[name][kept].min() >= scores[name][~kept].max()


def test_a_budget_of_memory_is_met_by_what_a_run_takes() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model, example = nn.Sequential(nn.Linear(8, 32), layer, nn.Linear(32, 5)).eval(), torch.randn(2, 16, 8)
    structure = trace(model, example)
    settings = Abc.model_validate({"name": "abc", "budget": {"memory": 0.5}, "limit": 0.9, "limit_rate": 10.0})
    scores = group_norm(model, structure)
    shapes = Shapes(settings, SimpleNamespace(model=model), structure, scores, Memory())  # type: ignore[arg-type]
    counts = shapes.threshold()

    def share(subnet: SubNetwork) -> float:
        return peak_activation_bytes(prune(copy_of(model), structure, subnet), example) / whole

    whole = peak_activation_bytes(model, example)
    assert share(shapes.subnet(counts)) > 0.55, "the structure alone does not tell"
    assert share(shapes.measured(counts)) <= 0.5 * 1.03


def test_the_model_is_left_alone_and_a_shape_is_worth_the_same_each_time(trained: Context) -> None:
    shapes = [shapes_of(trained, Abc(budget={"macs": 0.5})) for _ in range(2)]
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    state = torch.get_rng_state()
    counts = shapes[0].scaled(np.ones(len(shapes[0].sizes)))
    other = shapes[1].scaled(np.linspace(0.3, 1, len(counts)))
    first = shapes[0].nectar(counts)
    shapes[1].nectar(other)
    assert shapes[1].nectar(counts) == first
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())


def test_the_search_ends_with_the_best_allocation_that_brute_force_finds(trained: Context) -> None:
    settings = Abc(budget={"macs": 0.35}, round_to=2, limit=1.0, limit_rate=100.0)
    memory = Memory()
    shapes = shapes_of(trained, settings, memory)
    grid = itertools.product((0.3, 0.5, 0.7, 1.0), repeat=len(shapes.sizes))
    everything = {shapes.scaled(np.array(shares)) for shares in grid}
    assert len(everything) > 10
    best = max(map(shapes.nectar, everything))
    assert best > min(map(shapes.nectar, everything)) + 1

    own = shapes_of(trained, settings)
    colony = Colony(own, np.random.default_rng(0), start=[own.scaled(np.ones(len(own.sizes)))], size=6)
    for _ in range(6):
        colony.cycle()
    assert colony.best.nectar >= best


# Memory


def test_what_is_known_is_found_again_by_everybody(tmp_path: Path) -> None:
    first, second = Memory(tmp_path, worker=0), Memory(tmp_path, worker=1)
    first.keep((3, 4), 90.0)
    second.keep((4, 3), 95.0)
    assert second.recall((3, 4)) == 90.0
    assert first.recall((5, 5)) is None
    assert first.best() == second.best() == ((4, 3), 95.0)
    assert (first.tried, second.tried) == (1, 1)
    next(tmp_path.glob("*-1.json")).write_text("{")
    with pytest.raises(TrainingError, match="remove the file"):
        Memory(tmp_path).recall((4, 3))


# Runs


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("digits", [*TINY, *overrides])


class InterruptedRunError(Exception):
    """The process ends here."""


def test_a_search_that_was_cut_goes_on_and_ends_alike(tmp_path: Path) -> None:
    def stop(record: Any) -> None:
        if record["kind"] == "cycle" and record["number"] == 1:
            raise InterruptedRunError

    whole = run_recipe(recipe_of(), RunFolder(tmp_path / "whole"))
    with pytest.raises(InterruptedRunError):
        run_recipe(recipe_of(), RunFolder(tmp_path / "cut"), listeners=[stop])
    known = len(list((tmp_path / "cut" / "shapes").rglob("*.json")))
    assert known > 4
    (unfinished,) = list_runs(tmp_path / "cut")
    written = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    spent = {
        kind: [seconds_spent(line["seconds"]) for line in written if line["kind"] == kind]
        for kind in ("epoch", "cycle")
    }
    assert unfinished.seconds == pytest.approx(sum(spent["epoch"]) + sum(spent["cycle"]))
    (search,) = spent["cycle"]
    assert search > 0
    resumed = run_recipe(recipe_of(), RunFolder(tmp_path / "cut"), resume=True)
    assert resumed.removals == whole.removals
    assert resumed.test_accuracy == whole.test_accuracy
    assert resumed.details["shapes tried"] == whole.details["shapes tried"] - known

    (removal,) = whole.removals
    assert removal.epoch == 2
    assert removal.macs_after / removal.macs_before == pytest.approx(0.5, abs=0.02)
    best = whole.details["validation before the fine-tune"]
    assert best >= max(whole.details["of the uniform shape"], whole.details["of the shape by one threshold"])
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines if line["kind"] == "cycle"] == [1, 2]
    assert sum(line["epochs"] for line in lines if line["kind"] == "fine-tune") == 1


def test_workers_that_share_a_folder_try_different_shapes_and_use_each_other_s(tmp_path: Path) -> None:
    shared = f"method.share={tmp_path / 'shared'}"
    reports = [
        run_recipe(recipe_of(shared, f"method.worker={worker}"), RunFolder(tmp_path / f"run-{worker}"))
        for worker in (0, 1)
    ]
    files = list((tmp_path / "shared").rglob("*.json"))
    tried = [report.details["shapes tried"] for report in reports]
    assert len(files) == sum(tried)
    assert tried[1] < tried[0]  # the shapes that both begin with are known by then
    points = [json.loads(file.read_text())["points"] for file in files]
    assert reports[1].details["validation before the fine-tune"] == max(points)


def test_a_budget_that_is_everything_removes_nothing(tmp_path: Path) -> None:
    report = run_recipe(recipe_of("method.budget.macs=1.0", "method.cycles=0"), RunFolder(tmp_path / "run"))
    assert report.removals == ()
    assert report.pruned.macs == report.dense.macs


def test_what_cannot_be_is_refused_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="within reach"):
        run_recipe(recipe_of("method.budget.macs=0.0001"), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="sources"):
        recipe_of("method.sources=1")


def test_full_counts_are_the_whole_network(trained: Context) -> None:
    shapes = shapes_of(trained, Abc(budget={"macs": 1.0}))
    structure = trace(trained.model, trained.example_inputs)
    assert shapes.subnet(shapes.sizes) == SubNetwork.full(structure)
    assert math.prod(shapes.sizes) > 1
