"""Whole runs from recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import icycle
from ice_runs import CLOCK, TINY, recipe_of, records
from icycle.errors import BudgetError, DataError, RecipeError, StructureError
from icycle.methods import Context
from icycle.methods.ice import IceSettings
from icycle.recipes import RunFolder, load_recipe, run_recipe
from icycle.training import Recorder, TrainSettings
from icycle.zoo import SealedLoader, build_model, load_data


def test_the_recipe_runs_end_to_end(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    report = run_recipe(recipe_of("ice"), folder)
    assert report.pruned.macs / report.dense.macs == pytest.approx(0.5, abs=0.03)
    assert all(report.seconds[stage] > 0 for stage in CLOCK)
    steps = records(folder, "step")
    assert steps[-1]["number"] == steps[-1]["of"] == 4
    assert all(0 < step["decision"]["share"] <= 1 for step in steps)
    spent = sum(sum(step["seconds"].values()) for step in steps)
    assert 0 < spent < sum(report.seconds.values())
    assert all(step["seconds"]["search"] > 0 for step in steps)
    chosen = [[group["name"] for group in record["groups"]] for record in records(folder, "saliency")]
    assert chosen == [list(step["kept"]) for step in steps]
    assert report.details["steps"] == 4
    assert report.details["removals"] == len(steps)
    assert report.removals[0].epoch == 2 + sum(step["fine_tuned"] for step in steps)
    assert report.details["share of the layers frozen"] > 0
    assert json.loads(folder.report.read_text())["details"] == json.loads(json.dumps(dict(report.details)))


def test_a_resumed_run_writes_every_step_once(tmp_path: Path) -> None:
    def stop(record: Any) -> None:
        if record["kind"] == "step" and record["number"] == 2:
            raise KeyboardInterrupt

    folder, recipe = RunFolder(tmp_path / "run"), recipe_of("ice", "method.compensate=false")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, folder, listeners=[stop])
    run_recipe(recipe, folder, resume=True)
    assert [step["number"] for step in records(folder, "step")] == [1, 2, 3, 4]
    assert [epoch["epoch"] for epoch in records(folder, "epoch")] == [1, 2]


def test_where_all_at_once_would_cost_too_much_half_of_the_way_and_a_fine_tune_come_first(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    target = ("method.budget.macs=0.15", "method.limit=0.95", "method.steps=2", "method.patience=9")
    hard = (*target, "method.threshold=1", "method.confidence=null", "train.epochs=8")
    report = run_recipe(recipe_of("ice", *hard), folder)
    first, second = records(folder, "step")
    assert [record["reason"] for record in records(folder, "fine-tune")] == ["step", "final", "final", "final"]
    assert first["decision"]["fire"]
    assert first["decision"]["ahead"] >= 1
    assert first["fine_tuned"] == 1.0
    assert (second["decision"]["fire"], second["decision"]["ahead"]) == (False, None)
    assert first["macs_kept"] == pytest.approx(second["macs_kept"] ** 0.5, abs=0.07)
    assert second["macs_kept"] == report.pruned.macs / report.dense.macs


def test_a_threshold_of_fine_tunes_that_there_are_not_is_refused() -> None:
    ice = {"ratio": 0.5, "threshold": 5.0}
    with pytest.raises(ValueError, match="threshold: triggers fine-tunes in between"):
        IceSettings.model_validate(ice)
    with pytest.raises(RecipeError, match="set their epochs"):
        load_recipe("digits-ice", ["method.threshold=5"])
    assert IceSettings.model_validate({**ice, "epochs": 1}).threshold == 5.0
    assert IceSettings.model_validate({**ice, "epochs": 0}).epochs == 0, "said to be off"


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


def test_equal_seeds_give_equal_runs(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / name) for name in "ab"]
    first, second = (run_recipe(recipe_of("ice"), folder) for folder in folders)
    assert first.test_accuracy == second.test_accuracy
    steps = [[{**step, "seconds": None} for step in records(folder, "step")] for folder in folders]
    assert steps[0] == steps[1]


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
