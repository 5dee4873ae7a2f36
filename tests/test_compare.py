"""Comparisons: the plan of runs, the statistics of their table, and a small matrix run and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from icycle.cli import main
from icycle.compare import (
    Entry,
    Failure,
    Kept,
    Outcome,
    Result,
    Run,
    draw,
    interval,
    keep_results,
    kept_results,
    make_plan,
    markdown,
    rows,
    run_plan,
    text,
)
from icycle.compare._results import read_result
from icycle.errors import RecipeError
from icycle.methods import Fixed, IceMethod, OneCycleMethod, Phases, Scratch
from icycle.recipes import Recipe, RunFolder, load_recipe
from icycle.report import front

TINY = ["train.epochs=2", "model.width=16", "data.subset=600", "data.validation=0.2"]


def plan_of(*methods: str, seeds: tuple[int, ...] = (0, 1), recipe: Recipe | None = None) -> list[Run]:
    chosen = recipe or load_recipe("digits", TINY)
    return make_plan(chosen, [Entry.parse(method) for method in methods], seeds, Path("out"))


# The plan


def test_an_entry_is_a_name_and_settings() -> None:
    assert Entry.parse("ice") == Entry("ice", "ice", {})
    assert Entry.parse("fixed:at=0.1:round_to=4").settings == {"at": 0.1, "round_to": 4}
    assert Entry.parse("one-cycle:phases.ramp=0.1:phases.shrink=0").settings == {"phases": {"ramp": 0.1, "shrink": 0}}
    for wrong in ("fixed:at", "fixed:=1", "fixed:a..b=1"):
        with pytest.raises(RecipeError, match="NAME:KEY=VALUE"):
            Entry.parse(wrong)
    with pytest.raises(RecipeError, match="in 'fixed:at="):
        Entry.parse("fixed:at=[")


def test_one_setting_of_a_section_leaves_the_others_of_the_recipe_as_they_are() -> None:
    recipe = load_recipe("digits", [*TINY, "method.phases={patience: 0.1, ramp: 0.2}"])
    (run,) = (run for run in plan_of("one-cycle:phases.ramp=0.1", seeds=(0,), recipe=recipe) if run.label != "dense")
    assert isinstance(run.recipe.method, OneCycleMethod)
    assert run.recipe.method.phases == Phases(patience=0.1, ramp=0.1)


def test_an_entry_may_train_by_other_settings_than_the_recipe() -> None:
    plan = plan_of("one-cycle:train.epochs=5:train.optimizer.learning_rate=0.01", seeds=(0,))
    dense, ours = (run.recipe for run in plan)
    assert dense.train == load_recipe("digits", TINY).train
    rate = dense.train.optimizer.model_copy(update={"learning_rate": 0.01})
    assert ours.train == dense.train.model_copy(update={"epochs": 5, "optimizer": rate})
    assert ours.method == load_recipe("digits", TINY).method


def test_methods_without_a_teacher_are_taught_nothing() -> None:
    recipe = load_recipe("digits", [*TINY, "train.ema=0.9", "train.distill.weight=0.5"])
    trained = {run.label: run.recipe.train for run in plan_of("one-cycle", "scratch", recipe=recipe)}
    assert trained["one-cycle"] == recipe.train
    assert trained["dense"] == trained["scratch"] == recipe.train.model_copy(update={"distill": None})


def test_methods_with_fresh_weights_are_not_given_trained_ones(tmp_path: Path) -> None:
    recipe = load_recipe("digits", [*TINY, f"model.weights={tmp_path / 'weights.pt'}"])
    runs = {run.label: run.recipe.model.weights for run in plan_of("one-cycle", "scratch", "uniform", recipe=recipe)}
    assert runs["scratch"] is None
    assert runs["uniform"] is None
    assert runs["dense"] == runs["one-cycle"] == tmp_path / "weights.pt"


def test_every_method_gets_what_the_recipe_s_own_says_and_its_own_settings() -> None:
    runs = {run.label: run.recipe.method for run in plan_of("one-cycle", "fixed:at=0.1", "ice", seeds=(0,))}
    own = load_recipe("digits").method
    assert runs["one-cycle"] == own
    assert isinstance(own, OneCycleMethod)
    assert runs["fixed:at=0.1"] == Fixed(budget=own.budget, round_to=own.round_to, at=0.1)
    assert runs["ice"] == IceMethod(budget=own.budget, round_to=own.round_to)


def test_runs_come_after_what_they_need() -> None:
    plan = plan_of("scratch", "ice", "one-cycle")
    assert [(run.label, run.seed) for run in plan] == [
        (label, seed)
        for labels in (["dense"], ["ice", "one-cycle"], ["scratch"])
        for seed in (0, 1)
        for label in labels
    ]
    by_label = {run.label: run for run in plan if run.seed == 1}
    assert by_label["ice"].needs == ("dense",)
    assert by_label["ice"].recipe.model.weights == Path("out/dense-seed1/model")
    assert by_label["one-cycle"].needs == ()
    assert by_label["one-cycle"].recipe.model.weights is None
    assert by_label["scratch"].needs == ("ice",)
    scratch = by_label["scratch"].recipe.method
    assert isinstance(scratch, Scratch)
    assert scratch.of == Path("out/ice-seed1")


def test_scratch_may_take_the_shape_of_another_method() -> None:
    methods = ("ice", "fixed:at=0.1", "one-cycle", "scratch:of=one-cycle", "scratch:of=fixed")
    first, second = (run for run in plan_of(*methods, seeds=(0,)) if "scratch" in run.label)
    assert first.needs == ("one-cycle",)
    assert second.needs == ("fixed:at=0.1",)


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (("one-cicle",), "one-cycle"),
        (("ice", "ice"), "once"),
        (
            ("fixed:at=0.1", "fixed: at=0.1"),
            "'fixed:at=0.1' and 'fixed: at=0.1' would both be in folders like out/fixed-at",
        ),
        (("fixed:att=0.1",), "att"),
        (("fixed:train.epoch=3",), "epoch"),
        (("at-init:train.distill.weight=0.5",), "teacher"),
        (("scratch",), "prunes"),
        (("scratch:of=nothing", "ice"), "nothing"),
    ],
)
def test_a_plan_that_cannot_be_is_a_clear_error(methods: tuple[str, ...], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        plan_of(*methods)


def test_a_seed_that_comes_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match="each seed once, but got 0, 1, 0"):
        plan_of("dense", seeds=(0, 1, 0))


# The table


def result(
    label: str,
    seed: int,
    accuracy: float,
    seconds: float = 10.0,
    dense_seconds: float = 0.0,
    latency: float | None = 0.6,
) -> Result:
    costs = (seconds, dense_seconds, 4, 0.5, latency)
    return Result(label, seed, accuracy, accuracy, *costs, "accuracy", removal_epoch=None)


def error_result(label: str, value: float) -> Result:
    """Of a regression."""
    return replace(result(label, 0, value), metric="mean squared error", higher_is_better=False)


def test_the_interval_is_student_s() -> None:
    # t of 2 degrees of freedom at 97.5 % is 4.303; deviation 1, over sqrt(3)
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert interval([1.0]) is None


def test_differences_are_paired_by_seed() -> None:
    results = [result("dense", seed, 90.0 + 5 * seed, seconds=20.0) for seed in range(3)]
    results += [result("ice", seed, 91.0 + 5 * seed + 0.1 * (seed == 1)) for seed in range(3)]
    dense, ice = rows(results)
    assert (dense.difference, dense.half_width) == (0.0, 0.0)
    assert ice.difference == pytest.approx(1.0 + 0.1 / 3)
    assert ice.half_width == pytest.approx(4.3027 * 0.057735 / 3**0.5, rel=1e-3)  # whatever the seeds' own spread
    assert ice.deviation == pytest.approx(5.0, abs=0.1)
    assert ice.seconds_ratio == 0.5
    with pytest.raises(RecipeError, match="--against"):
        rows(results, against="one-cycle")


def test_seeds_that_failed_are_left_out_of_both_sides() -> None:
    outcomes: list[Outcome] = [result("dense", 0, 90.0), result("dense", 1, 80.0), result("dense", 2, 70.0)]
    outcomes += [result("ice", 0, 91.0), Failure("ice", 1, "Expected finite weights"), result("ice", 2, 72.0)]
    dense, ice = rows(outcomes)
    assert (dense.runs, ice.runs) == (3, 2)
    assert ice.difference == pytest.approx(1.5)
    (reversed_,) = (row for row in rows(outcomes, against="ice") if row.label == "dense")
    assert reversed_.difference == pytest.approx(-1.5)


def test_where_nothing_can_be_compared_there_is_a_dash() -> None:
    outcomes: list[Outcome] = [Failure("dense", 0, "Expected data"), result("uniform", 0, 91.0)]
    (uniform,) = rows(outcomes)
    assert (uniform.difference, uniform.half_width, uniform.seconds_ratio) == (None, None, None)
    assert [cell.strip() for cell in markdown(outcomes).splitlines()[2].strip("|").split("|")][3] == "-"


def test_no_latency_where_most_runs_do_not_tell_it_from_the_dense_network_s(tmp_path: Path) -> None:
    outcomes = [result("dense", seed, 90.0, latency=own) for seed, own in enumerate([None, 0.571])]
    outcomes += [result("ice", seed, 90.0, latency=own) for seed, own in enumerate([0.5, None, 0.6])]
    table = rows(outcomes)
    assert [row.cells[-1] for row in table] == ["no clear change", "55.0%"]
    assert draw(table, tmp_path)


@pytest.mark.parametrize(("lower", "latency"), [(5.9, 0.6), (1.0, None)])
def test_a_latency_that_noise_hides_is_none(lower: float, latency: float | None, tmp_path: Path) -> None:
    run = Run("ice", 0, load_recipe("digits"), RunFolder(tmp_path))
    dense = {"macs": 2, "latency": {"64": {"median": 10.0, "lower": 9.0, "upper": 11.0, "runs": 40}}}
    pruned = {"macs": 1, "latency": {"64": {"median": 6.0, "lower": lower, "upper": 6.1, "runs": 40}}}
    report = {"dense": dense, "pruned": pruned, "seconds": {}, "metric": "accuracy"}
    run.folder.report.write_text(json.dumps({**report, "test_accuracy": 90.0, "validation_accuracy": 90.0}))
    run.folder.metrics.touch()
    assert read_result(run, {}).latency == latency


def test_the_table_is_markdown_with_a_line_for_each_run_that_failed() -> None:
    outcomes: list[Outcome] = [result("dense", 0, 90.0), Failure("ice", 0, "Expected a finite loss")]
    outcomes.append(result("one-shot", 0, 89.0, seconds=12.5, dense_seconds=10.0))
    lines = markdown(outcomes).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert lines[1].startswith("| ----")
    assert cells[2] == ["dense", "1", "90.00", "+0.00", "10.0", "-", "1.00", "4", "-", "50.0%", "60.0%"]
    assert cells[3] == ["one-shot", "1", "89.00", "-1.00", "12.5", "10.0", "1.25", "4", "-", "50.0%", "60.0%"]
    assert cells[4] == ["ice, seed 0", "failed", *["-"] * 9]
    assert len({len(line) for line in lines}) == 1


def test_what_is_kept_of_a_comparison_makes_the_same_table(tmp_path: Path) -> None:
    outcomes = (result("dense", 0, 90.0), result("ice", 0, 91.0), Failure("ice", 1, 'a "quoted"\nword'))
    kept = Kept("icycle compare digits", "ice", ("device cpu",), outcomes)
    keep_results(tmp_path / "results.json", kept)
    again = kept_results(tmp_path / "results.json")
    assert again == kept
    assert text(again) == text(kept)
    assert "against ice" in text(kept)
    assert "3 runs of `icycle compare digits`, seeds 0, 1; device cpu." in text(kept)
    (tmp_path / "results.json").write_text('{"version": 2}')
    with pytest.raises(RecipeError, match="version 2"):
        kept_results(tmp_path / "results.json")


def test_the_front_has_what_nothing_else_beats() -> None:
    points = [(3.0, 90.0), (1.0, 80.0), (2.0, 79.0), (2.0, 85.0), (4.0, 90.0)]
    assert front(points) == [(1.0, 80.0), (2.0, 85.0), (3.0, 90.0)]


def test_where_lower_is_better_the_front_and_the_pictures_are_the_other_way_round(tmp_path: Path) -> None:
    points = [(0.12, 0.504), (0.1, 0.468), (0.2, 0.4), (0.2, 0.45)]
    assert front(points, higher_is_better=False) == [(0.1, 0.468), (0.2, 0.4)]
    table = rows([error_result("dense", 0.468), error_result("one-cycle", 0.504)])
    for picture in draw(table, tmp_path):
        assert "<!-- test mean squared error, lower is better (mean ± standard deviation) -->" in picture.read_text()


def test_an_error_keeps_its_digits_and_its_table_says_that_lower_is_better() -> None:
    outcomes = (error_result("dense", 0.04681), error_result("one-cycle", 0.05044))
    shown = text(Kept("icycle compare regression", "dense", (), outcomes))
    assert all(words in shown for words in ("test mean squared error", " 0.04681 ", " +0.00363 "))
    assert "The lower the mean squared error, the better." in shown
    assert "better" not in text(Kept("icycle compare digits", "dense", (), (result("dense", 0, 90.0),)))


def test_a_run_says_which_way_its_metric_counts(tmp_path: Path) -> None:
    run = Run("dense", 0, load_recipe("digits"), RunFolder(tmp_path))
    network = {"macs": 1, "latency": {"64": {"median": 10.0, "lower": 9.0, "upper": 11.0, "runs": 40}}}
    report = {"dense": network, "pruned": network, "seconds": {}, "test_accuracy": 0.5, "validation_accuracy": 0.4}
    run.folder.report.write_text(json.dumps({**report, "metric": "mean squared error", "higher_is_better": False}))
    run.folder.metrics.touch()
    assert not read_result(run, {}).higher_is_better
    run.folder.report.write_text(json.dumps({**report, "metric": "accuracy"}))  # of a run before reports said so
    assert read_result(run, {}).higher_is_better


def test_results_that_do_not_say_which_way_the_metric_counts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    kept = Kept("icycle compare digits", "dense", (), (result("dense", 0, 90.0),))
    keep_results(path, kept)
    content = json.loads(path.read_text())
    del content["results"][0]["higher_is_better"]
    path.write_text(json.dumps(content))
    assert kept_results(path) == kept


def test_pictures_name_every_method(tmp_path: Path) -> None:
    table = rows([result("dense", 0, 90.0), result("one-cycle", 0, 89.0)])
    made = draw(table, tmp_path)
    assert [path.name for path in made] == ["pareto-seconds.svg", "pareto-epochs.svg", "pareto-latency.svg"]
    assert all("<!-- one-cycle -->" in path.read_text() for path in made)  # matplotlib's comment beside drawn text


# Runs


@pytest.mark.slow
def test_a_matrix_runs_and_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = load_recipe("digits", TINY)
    entries = [Entry.parse(method) for method in ("one-shot:final_epochs=1", "scratch", "uniform")]
    first: list[Outcome] = []
    one = make_plan(recipe, entries, [0], tmp_path)
    run_plan(one, on_outcome=first.append)
    assert sorted(found.label for found in first) == ["dense", "one-shot:final_epochs=1", "scratch", "uniform"]
    times = {run.label: run.folder.report.stat().st_mtime_ns for run in one}

    results = run_plan(make_plan(recipe, entries, [0, 1], tmp_path), workers=2)
    assert {run.label: run.folder.report.stat().st_mtime_ns for run in one} == times
    assert len(results) == 8
    by_label = {found.label: found for found in results if found.seed == 0 and isinstance(found, Result)}
    dense, one_shot = by_label["dense"], by_label["one-shot:final_epochs=1"]
    assert dense.macs == 1
    assert by_label["scratch"].macs == one_shot.macs == pytest.approx(0.5, abs=0.05)
    assert one_shot.epochs == dense.epochs + 1 == 3
    assert one_shot.dense_seconds == dense.seconds < one_shot.seconds
    assert dense.dense_seconds == 0

    with pytest.raises(RecipeError, match="has others"):
        run_plan(make_plan(load_recipe("digits", [*TINY, "train.epochs=3"]), entries, [0], tmp_path))


@pytest.mark.slow
def test_a_run_that_fails_costs_itself_and_those_that_need_it(tmp_path: Path) -> None:
    recipe = load_recipe("digits", [*TINY, "method.round_to=1"])
    methods = ("fixed:budget.macs=0.0001", "scratch:of=fixed", "uniform")
    plan = make_plan(recipe, [Entry.parse(method) for method in methods], [0], tmp_path)
    outcomes = {outcome.label: outcome for outcome in run_plan(plan)}
    fixed, scratch = outcomes["fixed:budget.macs=0.0001"], outcomes["scratch:of=fixed"]
    assert isinstance(fixed, Failure)
    assert "within reach" in fixed.why
    assert isinstance(scratch, Failure)
    assert "needs fixed:budget.macs=0.0001" in scratch.why
    assert isinstance(outcomes["uniform"], Result)


@pytest.mark.slow
def test_a_process_that_dies_takes_one_run_along_and_a_stopped_comparison_goes_on(tmp_path: Path) -> None:
    """The command is asked to stop in the middle of its first run, then, resumed, loses a worker in the next."""
    output = tmp_path / "out"
    options = [part for value in (*TINY, "train.epochs=40") for part in ("--set", value)]
    command = [sys.executable, "-m", "icycle", "compare", "digits", "--methods", "dense,uniform", "--seeds", "0"]
    command += [*options, "--no-pictures", "--output", str(output)]
    checkpoint, uniform = output / "dense-seed0" / "checkpoint", output / "uniform-seed0" / "metrics.jsonl"

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        wait_for(checkpoint.exists)
        process.terminate()
        shown, _ = process.communicate(timeout=300)
    assert process.returncode == 75
    assert "goes on where it was" in shown
    assert not (output / "dense-seed0" / "report.json").exists()

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        wait_for(uniform.exists)
        (worker,) = workers_of(process.pid)
        os.kill(worker, signal.SIGKILL)
        shown, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "exit code -9" in shown
    assert "| uniform, seed 0 | failed |" in (output / "table.md").read_text()
    records = map(json.loads, (output / "dense-seed0" / "metrics.jsonl").read_text().splitlines())
    assert [record["epoch"] for record in records if record["kind"] == "epoch"] == list(range(1, 41))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def workers_of(parent: int) -> list[int]:
    """The processes that carry out runs for `parent`."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def test_the_command_writes_a_table_and_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = [part for value in TINY for part in ("--set", value)]
    folder = tmp_path / "out[b]"
    command = ["icycle", "compare", "digits", "--methods", "at-init", "--seeds", "0", *options, "--output", str(folder)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    shown = capsys.readouterr().out
    table = (folder / "table.md").read_text()
    assert "| at-init" in table
    assert "2 runs of `icycle compare digits --methods at-init --seeds 0 --set train.epochs=2" in table
    assert len(kept_results(folder / "results.json").outcomes) == 2
    assert table.splitlines()[2] in shown
    assert f"Everything is in {folder}\n" in shown
    assert (folder / "pareto-epochs.svg").is_file()


def test_pictures_that_cannot_be_drawn_are_refused_before_any_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(sys, "argv", ["icycle", "compare", "digits", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code
    assert "icycle[plot]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
