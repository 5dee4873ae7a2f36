"""The page of a run: from a folder alone, valid figures, nothing loaded, and what it says is what the run wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import DENSE_EPOCH, PRUNED_EPOCH, make_run
from plotly.graph_objects import Figure

from command import command
from icycle import read_run
from icycle.errors import RecipeError
from icycle.methods import OneCycleReport
from icycle.report import GroupFacts, Latency, NetworkFacts, Report, figures, write_page
from icycle.report._runs import read_run_record
from icycle.report._series import in_series


@pytest.mark.parametrize("groups", [1, 9, 60])
def test_every_figure_is_one_to_plotly(tmp_path: Path, groups: int) -> None:
    run = read_run_record(make_run(tmp_path / "a", groups=groups, latency=True))
    stepwise = read_run_record(make_run(tmp_path / "b", "ice", steps=True, groups=groups))
    makers = (figures.course, figures.channels, figures.saliency, figures.latency, figures.prediction)
    drawn = [make(run) for make in (*makers, figures.time_spent)]
    drawn += [figures.steps(stepwise), figures.saliency(stepwise)]
    drawn += [figures.pareto(in_series([run, stepwise]), price) for price in figures.PRICES]
    for figure in drawn:
        assert figure is not None
        Figure(figure)  # raises on a key or a value that plotly does not know


def test_what_a_run_lacks_is_not_drawn(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_text("")
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, "groups": [], "settings": {}}))
    run = read_run_record(folder)
    for make in (figures.course, figures.steps, figures.channels, figures.saliency, figures.prediction):
        assert make(run) is None
    page = write_page([folder], folder / "report.html").read_text()
    assert 'id="latency"' in page and 'id="course"' not in page


def own_words(page: str) -> str:
    """A page without plotly's script."""
    start = page.index("<script>")
    return page[:start] + page[page.index('<script type="application/json"') :]


def test_the_page_tells_the_facts_and_loads_nothing(tmp_path: Path) -> None:
    page = own_words(write_page([make_run(tmp_path / "run", latency=True)], tmp_path / "page.html").read_text())
    assert "98.50 %" in page and "50.0%" in page and "1 min 42 s" in page
    assert "no clear change" in page, "the quartiles at batch 64 overlap"
    assert "latency asked for (onnxruntime, batch 16)" in page and "5.10 ms, dense 10.20 ms" in page
    assert f"{102.5 / (4 * DENSE_EPOCH):.0%} of 4 dense epochs" in page
    assert f"one takes {DENSE_EPOCH:.2g} s dense, {PRUNED_EPOCH:.2g} s pruned" in page
    assert "after 2.0 epochs, because the search for them had settled; 50% of the MACs were left" in page
    assert "<script>alert" not in page, "a recipe is text"
    assert "http://" not in page and "https://" not in page and "src=" not in page


def test_a_run_in_steps_is_held_against_its_dense_network(tmp_path: Path) -> None:
    page = own_words(write_page([make_run(tmp_path / "run", "ice", steps=True)], tmp_path / "page.html").read_text())
    assert "validation 98.00 %, +8.00 against the dense network" in page
    assert "88.00 %, +2.00 points lost, 50% of the split read" in page
    assert "90.00 %, +0.00 points lost, 50% of the split read; the rest at once would have cost 30.00" in page
    assert "nothing was read" in page
    run = read_run_record(tmp_path / "run")
    figure = figures.steps(run)
    assert figure is not None
    assert {shape["y0"] for shape in figure["layout"]["shapes"]} == {90, 89}, "the dense network's and the threshold"


def test_steps_at_which_nothing_was_read_have_no_threshold(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "iterative", steps=True)
    assert "to the threshold" in own_words(write_page([folder], tmp_path / "page.html").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        if record["kind"] == "step":
            record["decision"] |= {"accuracy": None, "drop": None, "share": 0.0}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page = own_words(write_page([folder], tmp_path / "page.html").read_text())
    assert "without a look at the validation split" in page
    assert "to the threshold" not in page


def test_marks_stand_where_things_happened(tmp_path: Path) -> None:
    figure = figures.course(read_run_record(make_run(tmp_path / "run")))
    assert figure is not None
    marks = {
        (shape.get("yref"), shape["x0"] if shape.get("yref") == "paper" else shape["y0"])
        for shape in figure["layout"]["shapes"]
    }
    assert marks == {("paper", 2.0), ("paper", 0.75 * 4), ("y2", 0.95), ("y2", 0.8)}
    labels = figure["layout"]["annotations"]
    assert [label["text"] for label in labels] == ["removal", "deadline"]
    assert labels[0].get("yshift", 0) - labels[1]["yshift"] >= 16  # pixels: one may be right beside the other
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    report["details"]["why the removal came"] = "deadline"
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    figure = figures.course(read_run_record(tmp_path / "run"))
    assert figure is not None
    assert [label["text"] for label in figure["layout"]["annotations"]] == ["removal, at the deadline"]


def test_what_early_stopping_left_out_is_neither_counted_nor_drawn(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    planned = [{**record, "epochs": 40} if record["kind"] == "epoch" else record for record in records]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in planned))
    run = read_run_record(folder)
    assert run.deadline == 0.75 * 40
    page = own_words(write_page([folder], tmp_path / "page.html").read_text())
    assert f"{102.5 / (4 * DENSE_EPOCH):.0%} of 4 dense epochs" in page
    figure = figures.course(run)
    assert figure is not None
    assert figure["layout"]["xaxis"]["range"][1] < 5
    assert [label["text"] for label in figure["layout"]["annotations"]] == ["removal"]


def test_many_removals_have_one_label(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "gradual")
    report = json.loads((folder / "report.json").read_text())
    removals = [{**report["removals"][0], "epoch": 1 + number / 10} for number in range(3)]
    change = {"removals": removals, "details": {}}
    (folder / "report.json").write_text(json.dumps({**report, **change}))
    figure = figures.course(read_run_record(folder))
    assert figure is not None
    label, deadline = figure["layout"]["annotations"]
    assert (label["text"], deadline["text"]) == ("3 removals", "deadline")
    assert (label["x"], label["xanchor"]) == (1.2, "left"), "right of all the lines, where there is most room"


def test_the_cut_parts_what_went_from_what_stayed(tmp_path: Path) -> None:
    figure = figures.saliency(read_run_record(make_run(tmp_path / "run")))
    assert figure is not None
    removed, kept = figure["data"]
    assert max(value for value in removed["y"] if value is not None) < 1
    assert min(value for value in kept["y"] if value is not None) > 1
    first = [[x for x in trace["x"][:5] if x is not None] for trace in (removed, kept)]
    assert max(first[0]) < min(first[1]), "within a group the scores ascend from left to right"


def test_a_group_shows_its_own_last_removal(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "gradual", groups=3)
    names = [f"layers.{number}.conv" for number in range(3)]
    first, last = (
        [{"name": name, "size": 4, "left": 4 - len(gone), "removed": gone, "kept": [3.0, 4.0]} for name, gone in went]
        for went in (zip(names, ([1.0], [1.0], []), strict=True), zip(names, ([], [2.0], []), strict=True))
    )
    records = [{"kind": "saliency", "criterion": "group_norm", "groups": groups} for groups in (first, last)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    choices = read_run_record(folder).choices
    assert {name: group["removed"] for name, group in choices.items()} == {names[0]: [1.0], names[1]: [2.0]}


def test_runs_that_differ_in_the_seed_are_one_series(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"a{seed}", seed=seed, accuracy=97.0 + seed) for seed in range(3)]
    runs += [make_run(tmp_path / "b", budget=0.25), make_run(tmp_path / "c", "dense", accuracy=99.25)]
    series = in_series([read_run_record(run) for run in runs])
    assert [(one.name, len(one.runs)) for one in series] == [
        ("one-cycle, budget.macs=0.5", 3),
        ("one-cycle, budget.macs=0.25", 1),
        ("dense", 1),
    ]
    page = own_words(write_page(runs, tmp_path / "comparison.html").read_text())
    assert "98.00 ± 1.00 %" in page and "-1.25" in page and "5 runs in 3 series" in page


def test_a_folder_with_the_seed_in_its_name_parts_no_series(tmp_path: Path) -> None:
    runs = []
    for seed in (0, 1):
        dense = make_run(tmp_path / f"dense-seed{seed}", "dense", seed=seed)
        began = {"model": {"weights": str(dense / "model")}}
        pruned = make_run(tmp_path / f"ice-seed{seed}", "ice", seed=seed, settings=began)
        small = make_run(tmp_path / f"small-seed{seed}", "ice", seed=seed, settings=began, budget=0.25)
        shaped = [
            make_run(tmp_path / f"{name}-seed{seed}", "scratch", seed=seed, settings={"method": {"of": str(of)}})
            for name, of in (("a", pruned), ("b", small))
        ]
        runs += [dense, pruned, small, *shaped]
    series = in_series([read_run_record(run) for run in runs])
    assert [(one.name, len(one.runs)) for one in series] == [
        ("dense", 2),
        ("ice, budget.macs=0.5", 2),
        ("ice, budget.macs=0.25", 2),
        ("scratch, of.method.budget.macs=0.5", 2),
        ("scratch, of.method.budget.macs=0.25", 2),
    ]


def test_seconds_are_with_those_that_trained_the_weights_a_run_began_with(tmp_path: Path) -> None:
    dense = make_run(tmp_path / "made" / "dense", "dense")
    began = {"model": {"weights": "made/dense/model"}}  # as seen from where the runs were made, which is not here
    pruned = make_run(tmp_path / "made" / "pruned", settings=began)
    again = make_run(tmp_path / "made" / "again", "fixed", settings={"model": {"weights": str(pruned / "model")}})
    runs = [read_run_record(folder) for folder in (dense, pruned, again)]
    assert [run.seconds_in_all for run in runs] == [102.5, 205.0, 307.5]
    page = own_words(write_page([dense, again], tmp_path / "page.html").read_text())
    assert "shortest" in page and "307.5" in page and "without the training" not in page
    drawn = figures.pareto(in_series(runs), "seconds")["data"]
    assert [dot["x"] for dot in drawn[1:]] == [[102.5], [205.0], [307.5]]


def test_seconds_that_leave_out_a_training_are_told_and_win_nothing(tmp_path: Path) -> None:
    dense = make_run(tmp_path / "dense", "dense")
    elsewhere = {"model": {"weights": "gone/model"}}
    pruned = [make_run(tmp_path / name, name, settings=elsewhere) for name in ("one-shot", "ice")]
    page = own_words(write_page([dense, *pruned], tmp_path / "page.html").read_text())
    assert "The seconds of one-shot, ice are without the training of the weights" in page
    assert "shortest" not in page
    drawn = figures.pareto(in_series([read_run_record(folder) for folder in (dense, *pruned)]), "seconds")["data"]
    assert "not beaten in both" not in [trace["name"] for trace in drawn]
    page = own_words(write_page(pruned, tmp_path / "page.html").read_text())
    assert "shortest" in page, "both leave out the same"


def test_a_front_holds_what_nothing_beats_in_both(tmp_path: Path) -> None:
    shapes = {"a": (0.25, 90.0), "b": (0.5, 95.0), "c": (0.75, 94.0), "d": (0.9, 97.0)}
    runs = [make_run(tmp_path / name, budget=macs, accuracy=value) for name, (macs, value) in shapes.items()]
    front = figures.pareto(in_series([read_run_record(run) for run in runs]), "macs")["data"][0]
    assert list(zip(front["x"], front["y"], strict=True)) == [shapes["a"], shapes["b"], shapes["d"]]


def test_a_metric_that_should_be_low_is_best_where_it_is_lowest(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, budget=macs) for name, macs in (("a", 0.5), ("b", 0.6))]
    for folder, value in zip(folders, (3.5, 2.5), strict=True):
        report = json.loads((folder / "report.json").read_text())
        lower = {"metric": "perplexity", "higher_is_better": False, "test_accuracy": value}
        (folder / "report.json").write_text(json.dumps({**report, **lower}))
    page = own_words(write_page(folders, tmp_path / "comparison.html").read_text())
    assert "lowest test perplexity" in page
    assert page.index('<div class="value ">2.5</div>') > 0


def test_what_the_machine_does_not_tell_from_the_fastest_is_named(tmp_path: Path) -> None:
    shapes = {"a": 0.5, "b": 0.501, "c": 0.6}  # the quartiles are a percent around the medians
    folders = [make_run(tmp_path / name, name, budget=left) for name, left in shapes.items()]
    assert "a; no clear difference from b<" in own_words(write_page(folders, tmp_path / "comparison.html").read_text())
    others = own_words(write_page(folders[1:], tmp_path / "others.html").read_text())
    assert "fastest, batch 1" in others and "no clear difference" not in others


def test_runs_that_cannot_be_compared_are_called_so(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, budget=macs) for name, macs in (("a", 0.5), ("b", 0.6))]
    report = json.loads((folders[1] / "report.json").read_text())
    (folders[1] / "report.json").write_text(json.dumps({**report, "metric": "perplexity"}))
    page = own_words(write_page(folders, tmp_path / "comparison.html").read_text())
    assert "These runs measure different things (accuracy, perplexity)" in page
    assert "highest test" not in page and "lowest test" not in page
    assert "not beaten in both" not in page


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({"data": {"name": "fashion"}}, "These runs were not made on the same data."),
        ({"model": {"width": 8}}, "These runs are not of the same network."),
        ({"task": {"name": "regression"}}, None),
    ],
)
def test_only_a_dense_network_of_the_same_problem_is_held_against(
    tmp_path: Path, settings: dict[str, dict[str, Any]], warning: str | None
) -> None:
    dense = make_run(tmp_path / "dense", "dense", accuracy=99.0)
    own = make_run(tmp_path / "own", settings={"model": {"weights": "pretrained"}}, accuracy=98.0)
    other = make_run(tmp_path / "other", "ice", settings=settings, accuracy=97.0)
    page = own_words(write_page([dense, own, other], tmp_path / "page.html").read_text())
    assert "-1.00" in page and "-2.00" not in page
    assert warning is None or warning in page


def test_of_two_dense_networks_the_one_that_was_trained_alike_is_held_against(tmp_path: Path) -> None:
    longer = {"train": {"epochs": 8}}
    runs = [
        make_run(tmp_path / "dense", "dense", accuracy=90.0),
        make_run(tmp_path / "longer", "dense", accuracy=99.0, settings=longer),
        make_run(tmp_path / "pruned", accuracy=98.0, settings=longer),
    ]
    page = own_words(write_page(runs, tmp_path / "page.html").read_text())
    assert "-1.00" in page and "+8.00" not in page


def test_a_budget_in_memory_shows_it(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / name, settings={"method": {"budget": {"macs": None, name: 0.25}}})
        for name in ("memory", "activation_bytes")
    ]
    for folder in folders:
        report = json.loads((folder / "report.json").read_text())
        for network, memory in (("dense", 4096), ("pruned", 1024)):
            report[network]["memory"] = memory
        (folder / "report.json").write_text(json.dumps(report))
        page = own_words(write_page([folder], tmp_path / "page.html").read_text())
        assert "peak memory of activations" in page and "1,024 of 4,096 bytes for one input" in page
    plain = make_run(tmp_path / "plain", "dense")
    page = own_words(write_page([*folders, plain], tmp_path / "page.html").read_text())
    assert '<th scope="col">memory</th>' not in page, "one of them does not tell it"
    page = own_words(write_page(folders, tmp_path / "page.html").read_text())
    assert '<th scope="col">memory</th>' in page and "25.0 %" in page


def test_what_was_predicted_and_measured_stands_in_a_table(tmp_path: Path) -> None:
    page = own_words(write_page([make_run(tmp_path / "run", latency=True)], tmp_path / "page.html").read_text())
    assert '<tr><th scope="row">2</th><td>5 ms</td><td>5.1 ms</td><td>5 ms</td></tr>' in page


def test_runs_of_one_seed_are_no_spread(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / parent / "run") for parent in ("a", "b")]
    page = own_words(write_page(runs, tmp_path / "page.html").read_text())
    assert "One seed each is no spread" in page
    assert "Several runs of one seed count like runs of several seeds: one-cycle." in page
    assert '<th scope="row">a/run</th>' in page and '<th scope="row">b/run</th>' in page
    again = write_page([runs[0], tmp_path / "a" / ".." / "a" / "run"], tmp_path / "again.html")
    assert again.read_text() == write_page(runs[:1], tmp_path / "page.html").read_text()


def test_the_folder_of_a_comparison_is_told_from_a_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "my runs" / "dense").parent
    with pytest.raises(RecipeError, match=re.escape(f"compare them with icycle report '{folder}'/*/")):
        write_page([folder], tmp_path / "page.html")


@pytest.mark.parametrize("network", ["dense", "pruned"])
@pytest.mark.parametrize("cost", ["macs", "params", "latency"])
def test_a_report_that_lacks_a_cost_is_refused(tmp_path: Path, network: str, cost: str) -> None:
    folder = make_run(tmp_path / "run")
    report = json.loads((folder / "report.json").read_text())
    del report[network][cost]
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(RecipeError, match=f"but it lacks {network}.{cost};"):
        write_page([folder], tmp_path / "page.html")


def test_metrics_are_read_up_to_a_line_that_was_cut(tmp_path: Path) -> None:
    metrics = make_run(tmp_path / "run") / "metrics.jsonl"
    whole = len(read_run(tmp_path / "run"))
    metrics.write_text(metrics.read_text() + '{"kind": "epo')
    assert len(read_run(tmp_path / "run")) == whole
    for damaged in ("{", "3"):
        metrics.write_text('{"kind": "start"}\n' + damaged + "\n")
        with pytest.raises(RecipeError, match=f"a record in line 2 of {re.escape(str(metrics))}, but"):
            read_run(tmp_path / "run")


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    unfinished = tmp_path / "my run"
    with pytest.raises(RecipeError, match=re.escape(f"icycle run --resume '{unfinished}', or")):
        write_page([unfinished], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_folder_of_a_page_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "ü b" / "c.html"
    assert command(monkeypatch, "report", str(make_run(tmp_path / "run")), "--output", str(page)) == 0
    assert page.is_file()


@pytest.mark.parametrize("name", ["report.json", "metrics.jsonl", "recipe.yaml"])
@pytest.mark.parametrize("text", ["[]", "{}", "{", "3", None])
def test_a_damaged_run_is_refused_in_one_message(tmp_path: Path, name: str, text: str | None) -> None:
    folder = make_run(tmp_path / "run")
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    if name == "recipe.yaml" and text is not None:
        write_page([folder], tmp_path / "page.html")  # it is shown as it is
        return
    with pytest.raises(RecipeError, match="run"):
        write_page([folder], tmp_path / "page.html")


def test_what_a_run_gives_back_is_short_to_print() -> None:
    latency = {1: Latency(1.0, 0.9, 1.1, 40), 64: Latency(9.0, 8.0, 10.0, 40)}
    facts = NetworkFacts(1000, 100, 400, latency, memory=64)
    groups = tuple(GroupFacts(f"layers.{number}", 64, 32, ("weight", "bias")) for number in range(99))
    long = {str(number): [number] * 99 for number in range(99)}
    report = Report(
        "digits", "dense", facts, facts, (), 98.0, 98.0, {"train": 1.0}, details=long, groups=groups, settings=long
    )
    assert len(repr(report)) < 800
    curve = [(number / 99, 0.5) for number in range(99)]
    assert len(repr(OneCycleReport("half", curve=curve))) < 400
