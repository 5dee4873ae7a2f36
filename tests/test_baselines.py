"""Removal on a schedule, and the baselines: each does what its name says, and a resumed run ends like a whole one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import icycle
from icycle.errors import BudgetError, RecipeError, TrainingError
from icycle.latency import Call, Latency, Setting, Target, find_target, peak_activation_bytes, register
from icycle.methods import Gradual
from icycle.methods._gradual import schedule, time_of
from icycle.methods._scheduled import _Costs
from icycle.recipes import Recipe, RunFolder, load_recipe, run_recipe
from icycle.report import Report
from icycle.structure import SubNetwork
from icycle.tracing import copy_of
from icycle.zoo import build_model

TINY = ("train.epochs=4", "model.width=8", "data.subset=300")  # half the MACs, as the recipe says


def recipe_of(method: str, *overrides: str) -> Recipe:
    return load_recipe("digits", [f"method.name={method}", *TINY, *overrides])


def run(folder: Path, method: str, *overrides: str, listeners: Any = ()) -> Report:
    return run_recipe(recipe_of(method, *overrides), RunFolder(folder), listeners=listeners)


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in written if record["kind"] == kind]


def kept_share(report: Report) -> float:
    return report.pruned.macs / report.dense.macs


# The schedule


def test_the_schedule_is_the_published_one() -> None:
    at = {t: schedule(t, alpha=14, beta=6) for t in (0.0, 0.2, 0.5, 0.7, 1.0)}
    expected = {0.0: 0.0025, 0.2: 0.039, 0.5: 0.731, 0.7: 0.978, 1.0: 1.0}
    assert at == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.95, 1.0])
def test_the_time_of_a_share_is_the_inverse_of_the_schedule(share: float) -> None:
    assert schedule(time_of(share, 14, 6), 14, 6) == pytest.approx(share)
    assert time_of(0.001, 14, 6) == 0  # less than is gone at the start


def test_the_moments_take_equal_parts_and_one_is_a_fixed_time() -> None:
    four = Gradual(budget={"macs": 0.5}, removals=4).moments
    assert [share for _, share in four] == [0.25, 0.5, 0.75, 1.0]
    assert [schedule(moment, 14, 6) for moment, _ in four] == pytest.approx([0.125, 0.375, 0.625, 0.875])
    ((moment, share),) = Gradual(budget={"macs": 0.5}, removals=1).moments
    assert (schedule(moment, 14, 6), share) == (pytest.approx(0.5), 1.0)


# Runs


def test_gradual_removal_makes_the_network_cheaper_step_by_step_down_to_the_budget(tmp_path: Path) -> None:
    report = run(tmp_path / "run", "gradual", "method.removals=4", "method.round_to=1")
    kept = [removal.macs_kept for removal in report.removals]
    assert kept == [removal.macs_after / report.dense.macs for removal in report.removals]
    assert kept == pytest.approx([0.875, 0.75, 0.625, 0.5], abs=0.03)
    assert kept_share(report) == kept[-1]
    moments = [moment for moment, _ in Gradual(budget={"macs": 0.5}, removals=4).moments]
    steps = 4 * 4  # 4 batches of 64 out of 270 images
    assert [removal.epoch for removal in report.removals] == [math.ceil(steps * moment) / 4 for moment in moments]


def test_gradual_removal_honours_the_limit_on_the_dense_groups(tmp_path: Path) -> None:
    run(
        tmp_path / "run", "gradual", "method.removals=4", "method.round_to=1", "method.limit=0.4", "method.limit_rate=9"
    )
    pruned = icycle.load(tmp_path / "run" / "model", build_model("small-cnn", num_classes=10, in_channels=1, width=8))
    dense = build_model("small-cnn", num_classes=10, in_channels=1, width=8)
    for name, parameter in dense.named_parameters():
        kept = pruned.get_parameter(name).shape[0]
        assert kept >= parameter.shape[0] - round(0.4 * parameter.shape[0])


@pytest.mark.parametrize(
    ("method", "overrides", "epoch"), [("fixed", ("method.at=0.5",), 2.0), ("at-init", (), 0.0), ("fixed", (), 1.0)]
)
def test_one_removal_comes_when_it_is_said_to(
    tmp_path: Path, method: str, overrides: tuple[str, ...], epoch: float
) -> None:
    report = run(tmp_path / "run", method, *overrides)
    (removal,) = report.removals
    assert removal.epoch == epoch
    assert removal.macs_after / removal.macs_before == kept_share(report) == pytest.approx(0.5, abs=0.1)


def test_the_random_criterion_can_choose(tmp_path: Path) -> None:
    first, second = (run(tmp_path / name, "at-init", f"method.criterion={name}") for name in ("random", "l1"))
    assert kept_share(first) == pytest.approx(kept_share(second), abs=0.1)
    assert first.test_accuracy != second.test_accuracy
    with pytest.raises(RecipeError, match=r"method\.criterion"):
        recipe_of("fixed", "method.criterion=l3")


def test_a_uniform_network_has_lost_the_same_share_everywhere(tmp_path: Path) -> None:
    report = run(tmp_path / "run", "uniform", "model.width=32", "train.epochs=1", "method.round_to=1")
    assert kept_share(report) == pytest.approx(0.5, abs=0.02)
    model = icycle.load(tmp_path / "run" / "model", build_model("small-cnn", num_classes=10, in_channels=1, width=32))
    kept = {model.get_parameter(f"{name}.0.weight").shape[0] for name in ("stem", "low")}
    twice = {model.get_parameter(f"{name}.0.weight").shape[0] for name in ("widen", "inner")}
    assert max(kept) - min(kept) <= 1
    assert max(twice) - min(twice) <= 1
    assert report.removals == ()


def test_scratch_trains_the_shape_of_another_run_from_fresh_weights(tmp_path: Path) -> None:
    other = run(tmp_path / "other", "fixed", "method.round_to=1")
    report = run(tmp_path / "run", "scratch", f"method.of={tmp_path / 'other'}")
    assert (report.pruned.macs, report.pruned.params) == (other.pruned.macs, other.pruned.params)
    assert report.dense.macs == other.dense.macs
    assert len(records(tmp_path / "run", "epoch")) == 4
    assert report.test_accuracy != other.test_accuracy


def test_scratch_for_equal_seconds_trains_as_long_as_the_whole_other_run(tmp_path: Path) -> None:
    run(tmp_path / "other", "fixed", "method.round_to=1")
    metrics, report = tmp_path / "other" / "metrics.jsonl", tmp_path / "other" / "report.json"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "epoch":
            line["seconds"] = {"train": 1.5, "evaluation": 0.5, "rest": 7.0}
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report.write_text(
        json.dumps({**json.loads(report.read_text()), "seconds": {"train": 9.0, "search": 2.5, "rest": 8.0}})
    )
    run(tmp_path / "run", "scratch", f"method.of={tmp_path / 'other'}", "method.equal=seconds")
    assert len(records(tmp_path / "run", "epoch")) == 5  # of 2 seconds each, in 11.5


def test_equal_seconds_are_those_of_the_dense_network_too_where_a_run_started_from_one(tmp_path: Path) -> None:
    run(tmp_path / "dense", "dense")
    started = (f"model.weights={tmp_path / 'dense' / 'model'}", "method.round_to=1", "method.final_epochs=2")
    run(tmp_path / "other", "one-shot", *started)
    for name, seconds in (("dense", {"train": 8.0}), ("other", {"search": 1.0, "fine-tuning": 3.0, "rest": 9.0})):
        report = tmp_path / name / "report.json"
        report.write_text(json.dumps({**json.loads(report.read_text()), "seconds": seconds}))
    metrics = tmp_path / "other" / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    timed = [{**line, "seconds": 1.5 * line["epochs"]} if line["kind"] == "fine-tune" else line for line in lines]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in timed))
    run(tmp_path / "run", "scratch", f"method.of={tmp_path / 'other'}", "method.equal=seconds")
    assert len(records(tmp_path / "run", "epoch")) == 8  # of 1.5 seconds each, in 12


def test_the_seconds_of_a_run_with_a_teacher_are_no_measure(tmp_path: Path) -> None:
    run(tmp_path / "other", "fixed", "train.distill={weight: 0.5}")
    with pytest.raises(TrainingError, match="a teacher takes its part"):
        run(tmp_path / "run", "scratch", f"method.of={tmp_path / 'other'}", "method.equal=seconds")


def test_scratch_of_what_is_no_finished_run_is_a_clear_error(tmp_path: Path) -> None:
    run(tmp_path / "other", "fixed")
    (tmp_path / "other" / "report.json").unlink()
    with pytest.raises(TrainingError, match="finished run"):
        run(tmp_path / "run", "scratch", f"method.of={tmp_path / 'other'}", "method.equal=seconds")


# A budget of latency


@register
class Paced(Target):
    """Convolutions take as long as they have multiplications, `pace` nanoseconds each; nothing else takes time."""

    name = "paced"

    def __init__(self) -> None:
        self.now, self.pace = 0.0, 1.0
        self.clock = lambda: self.now

    def versions(self) -> dict[str, str]:
        return {}

    def network(self, model: nn.Module, inputs: Any, setting: Setting) -> Callable[[], None]:
        work = icycle.trace(model, inputs).macs()  # the classifier's few included
        return lambda: self._work(work)

    def operation(self, call: Call, sizes: Sequence[int], setting: Setting) -> Callable[[], None] | None:
        if not call.name.startswith("aten.convolution"):
            return None
        (_, weight, *_), _ = call.at(sizes)
        batch, _, height, width = call.outputs[0]
        work = batch * height * width * math.prod(weight.shape)
        return lambda: self._work(work)

    def _work(self, multiplications: int) -> None:
        self.now += 1e-9 * self.pace * multiplications


@pytest.fixture
def paced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paced:
    monkeypatch.setenv("ICYCLE_CACHE", str(tmp_path / "cache"))
    target = find_target("paced")
    assert isinstance(target, Paced)
    target.pace = 1.0
    return target


LATENCY = ("method.budget={latency: 0.5, target: paced}", "method.round_to=1", "model.width=24")


@pytest.mark.parametrize("method", ["gradual", "fixed", "at-init", "uniform"])
def test_half_the_latency_is_half_the_latency(paced: Paced, tmp_path: Path, method: str) -> None:
    report = run(tmp_path / "run", method, *LATENCY, *(["method.removals=4"] if method == "gradual" else []))
    assert kept_share(report) == pytest.approx(0.5, abs=0.03)  # on this target latency is multiplications
    asked = report.asked_latency
    assert asked is not None and (asked.target, asked.batch) == ("paced", 1)
    assert asked.pruned.median / asked.dense.median == pytest.approx(0.5, abs=0.03)
    if method == "gradual":
        kept = [removal.macs_after / report.dense.macs for removal in report.removals]
        assert kept == pytest.approx([0.875, 0.75, 0.625, 0.5], abs=0.03)


def test_memory_is_that_of_the_batch_that_the_budget_names(tmp_path: Path) -> None:
    report = run(tmp_path / "run", "fixed", "method.budget={memory: 0.7, batch: 16}", "method.round_to=1")
    dense = build_model("small-cnn", num_classes=10, in_channels=1, width=8)
    pruned = icycle.load(tmp_path / "run" / "model", build_model("small-cnn", num_classes=10, in_channels=1, width=8))
    taken = [peak_activation_bytes(each, torch.randn(16, 1, 8, 8)) for each in (pruned, dense)]
    assert 0.65 < taken[0] / taken[1] <= 0.7
    assert len(report.removals) == 1


def test_a_group_that_is_down_to_one_channel_still_counts(paced: Paced) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 64, 1), nn.ReLU(), nn.Conv2d(64, 4, 1)).eval()
    dense = icycle.trace(model, torch.randn(2, 3, 8, 8))
    budget = icycle.Budget(latency=0.5, target="paced")
    costs = _Costs(budget, copy_of(model), dense)
    narrow = SubNetwork.first(dense, {dense.prunable[0].name: 1, dense.prunable[1].name: 32})
    later = icycle.trace(icycle.prune(copy_of(model), dense, narrow), torch.randn(2, 3, 8, 8))
    assert len(later.prunable) == 1
    predicted = costs.at(later, model)["latency"](np.array([32]))
    assert predicted == pytest.approx(Latency(model, dense, budget).measure(narrow), rel=0.01)


def test_a_machine_that_becomes_slower_does_not_make_the_network_smaller(paced: Paced, tmp_path: Path) -> None:
    def slow_down(record: Any) -> None:
        paced.pace = 3.0 if record["kind"] == "removal" else paced.pace

    report = run(tmp_path / "run", "gradual", *LATENCY, "method.removals=2", listeners=[slow_down])
    assert len(report.removals) == 2
    assert kept_share(report) == pytest.approx(0.5, abs=0.03)


def test_a_latency_out_of_reach_is_refused_before_any_training(paced: Paced, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"latency=0\.01 to be within reach .* at least that, or raise limit\.$"):
        run(tmp_path / "run", "gradual", *LATENCY, "method.budget.latency=0.01")
    assert not (tmp_path / "run").exists()


# The shrink


def test_fixed_with_a_shrink_chooses_earlier_and_removes_what_has_faded(tmp_path: Path) -> None:
    report = run(tmp_path / "run", "fixed", "method.at=0.5", "method.shrink=30", "method.ramp=0.25")
    (removal,) = report.removals
    assert removal.epoch == 2.0
    assert report.details["shrink from, share of the run"] == 0.25
    assert removal.accuracy_after == pytest.approx(removal.accuracy_before, abs=0.01)  # nothing was left of them
    with pytest.raises(RecipeError, match="at >= ramp"):
        recipe_of("fixed", "method.at=0.01", "method.shrink=8")


class InterruptedRunError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("method", ["gradual", "fixed", "at-init", "uniform"])
def test_a_resumed_run_ends_like_one_that_was_never_cut(method: str, epoch: int, tmp_path: Path) -> None:
    def stop(record: Any) -> None:
        if record["kind"] == "epoch" and record["epoch"] == epoch:
            raise InterruptedRunError

    whole = run(tmp_path / "whole", method)
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "cut", method, listeners=[stop])
    resumed = run_recipe(recipe_of(method), RunFolder(tmp_path / "cut"), resume=True)
    assert resumed.removals == whole.removals
    assert resumed.test_accuracy == whole.test_accuracy
    states = [icycle.load(
        tmp_path / name / "model", build_model("small-cnn", num_classes=10, in_channels=1, width=8)
    ).state_dict() for name in ("whole", "cut")]  # fmt: skip
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
