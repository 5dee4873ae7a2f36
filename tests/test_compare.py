"""Comparisons: the plan of runs, the statistics of their table, and a small matrix run and resumed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from icycle.cli import main
from icycle.compare import Entry, Result, Run, draw, interval, make_plan, markdown, rows, run_plan
from icycle.compare._pictures import front
from icycle.errors import RecipeError
from icycle.methods import Fixed, IceMethod, OneCycleMethod, Scratch
from icycle.recipes import Recipe, load_recipe

TINY = ["train.epochs=2", "model.width=16", "data.subset=600", "data.validation=0.2"]


def plan_of(*methods: str, seeds: tuple[int, ...] = (0, 1), recipe: Recipe | None = None) -> list[Run]:
    chosen = recipe or load_recipe("digits", TINY)
    return make_plan(chosen, [Entry.parse(method) for method in methods], seeds, Path("out"))


# The plan


def test_an_entry_is_a_name_and_settings() -> None:
    assert Entry.parse("ice") == Entry("ice", "ice", {})
    assert Entry.parse("fixed:at=0.1:round_to=4").settings == {"at": 0.1, "round_to": 4}
    with pytest.raises(RecipeError, match="NAME:KEY=VALUE"):
        Entry.parse("fixed:at")


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
    (scratch,) = (
        run for run in plan_of("ice", "one-cycle", "scratch:of=one-cycle", seeds=(0,)) if "scratch" in run.label
    )
    assert scratch.needs == ("one-cycle",)


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (("one-cicle",), "one-cycle"),
        (("ice", "ice"), "once"),
        (("fixed:att=0.1",), "att"),
        (("scratch",), "prunes"),
        (("scratch:of=nothing", "ice"), "nothing"),
    ],
)
def test_a_plan_that_cannot_be_is_a_clear_error(methods: tuple[str, ...], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        plan_of(*methods)


# The table


def result(label: str, seed: int, accuracy: float, seconds: float = 10.0) -> Result:
    return Result(label, seed, accuracy, accuracy, seconds, epochs=4, macs=0.5, latency=0.6)


def test_the_interval_is_student_s() -> None:
    # t of 2 degrees of freedom at 97.5 % is 4.303; deviation 1, over sqrt(3)
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert interval([1.0]) is None


def test_differences_are_paired_by_seed() -> None:
    results = [result("dense", seed, 90.0 + 5 * seed, seconds=20.0) for seed in range(3)]
    results += [result("ice", seed, 91.0 + 5 * seed + 0.1 * (seed == 1)) for seed in range(3)]
    dense, ice = rows(results, against="dense")
    assert (dense.difference, dense.half_width) == (0.0, 0.0)
    assert ice.difference == pytest.approx(1.0 + 0.1 / 3)
    assert ice.half_width == pytest.approx(4.3027 * 0.057735 / 3**0.5, rel=1e-3)  # whatever the seeds' own spread
    assert ice.deviation == pytest.approx(5.0, abs=0.1)
    assert ice.seconds_ratio == 0.5
    with pytest.raises(RecipeError, match="--against"):
        rows(results, against="one-cycle")


def test_the_table_is_markdown() -> None:
    lines = markdown(rows([result("dense", 0, 90.0)], against="dense")).splitlines()
    assert lines[1].startswith("| ----")
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "dense", "1", "90.00", "+0.00", "10.0", "1.00", "4", "50.0%", "60.0%",
    ]  # fmt: skip


def test_the_front_has_what_nothing_else_beats() -> None:
    points = [(3.0, 90.0), (1.0, 80.0), (2.0, 79.0), (2.0, 85.0), (4.0, 90.0)]
    assert front(points) == [(1.0, 80.0), (2.0, 85.0), (3.0, 90.0)]


def test_pictures_name_every_method(tmp_path: Path) -> None:
    table = rows([result("dense", 0, 90.0), result("one-cycle", 0, 89.0)], against="dense")
    made = draw(table, tmp_path)
    assert [path.name for path in made] == ["pareto-seconds.svg", "pareto-epochs.svg", "pareto-latency.svg"]
    assert all("<!-- one-cycle -->" in path.read_text() for path in made)  # matplotlib's comment beside drawn text


# Runs


@pytest.mark.slow
def test_a_matrix_runs_and_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = load_recipe("digits", TINY)
    entries = [Entry.parse(method) for method in ("one-shot:final_epochs=1", "scratch", "uniform")]
    first: list[Result] = []
    one = make_plan(recipe, entries, [0], tmp_path)
    run_plan(one, on_result=first.append)
    assert sorted(found.label for found in first) == ["dense", "one-shot:final_epochs=1", "scratch", "uniform"]
    times = {run.label: run.folder.report.stat().st_mtime_ns for run in one}

    results = run_plan(make_plan(recipe, entries, [0, 1], tmp_path), workers=2)
    assert {run.label: run.folder.report.stat().st_mtime_ns for run in one} == times
    by_label = {found.label: found for found in results if found.seed == 0}
    assert by_label["dense"].macs == 1
    assert by_label["scratch"].macs == by_label["one-shot:final_epochs=1"].macs == pytest.approx(0.5, abs=0.05)
    assert by_label["one-shot:final_epochs=1"].epochs == by_label["dense"].epochs + 1 == 3
    assert by_label["one-shot:final_epochs=1"].seconds > by_label["dense"].seconds
    assert len(results) == 8

    with pytest.raises(RecipeError, match="has others"):
        run_plan(make_plan(load_recipe("digits", [*TINY, "train.epochs=3"]), entries, [0], tmp_path))


def test_the_command_writes_a_table_and_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = [part for value in TINY for part in ("--set", value)]
    folder = tmp_path / "out"
    command = ["icycle", "compare", "digits", "--methods", "at-init", "--seeds", "0", *options, "--output", str(folder)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    shown = capsys.readouterr().out
    table = (folder / "table.md").read_text()
    assert "| at-init" in table
    assert "2 runs, seeds 0; device" in table
    assert table.splitlines()[2] in shown
    assert (folder / "pareto-epochs.svg").is_file()
