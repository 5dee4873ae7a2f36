"""Recipes: what is rejected and how, what overrides do, and that a run reads its test set once, at the end."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

import icycle
from cut_runs import records, stopped_and_resumed, weights
from icycle import artifacts
from icycle.errors import RecipeError
from icycle.methods import Removal
from icycle.recipes import (
    Recipe,
    RunFolder,
    bundled_recipes,
    dump_recipe,
    load_recipe,
    next_run,
    open_run,
    run_recipe,
)
from icycle.report import AskedLatency, Latency, NetworkFacts, Report, file_bytes, render, summary
from icycle.tasks import Regression
from icycle.training import SGD, AdamW, Classification, Cosine, evaluate
from icycle.zoo import SealedLoader, TensorLoader, build_model, load_data

SMALL = ("train.epochs=2", "model.width=8", "data.subset=300")
TINY = ("method.name=dense", *SMALL)
ONE_CYCLE = (*SMALL, "train.epochs=4", "method.round_to=1", "method.phases.sparsity_end=0.5")


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


# Reading


@pytest.mark.parametrize("name", bundled_recipes())
def test_every_bundled_recipe_is_valid_and_opens_with_its_command(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    text = (Path(run_recipe.__code__.co_filename).parent / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# icycle run {name}\n")
    assert bundled_recipes()[name]


@pytest.mark.parametrize("name", bundled_recipes())
def test_a_resolved_recipe_reads_back_as_itself(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_a_recipe_is_named_after_its_file(tmp_path: Path) -> None:
    text = "{data: {name: digits}, model: {name: small-cnn}, method: {name: dense}}"
    assert load_recipe(write(tmp_path, text)).name == "mine"


def test_all_faults_are_reported_together_each_with_the_nearest_name(tmp_path: Path) -> None:
    text = """
        data: {name: digit, validaton: 0.1}
        model: {name: resnet65, width: 0}
        train:
          epochs: many
          precision: bf61
          optimizer: {name: sdg}
          schedule: {name: cosine, warm_up: 0.1}
        method: {name: one-cicle}
        sede: 3
    """
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    message = str(caught.value)
    for part in (
        "10 faults",
        "data.name: Expected a data set's name, but got 'digit'; did you mean 'digits'?",
        "data.validaton: unknown key; did you mean 'validation'?",
        "model.name: ",
        "did you mean 'resnet56'?",
        "model.width: ",
        "train.epochs: ",
        "train.precision: expected 'no', 'bf16' or 'fp16', but got 'bf61'",
        "train.optimizer.name: Expected an optimizer's name, but got 'sdg'; did you mean 'sgd'?",
        "train.schedule.warm_up: unknown key; did you mean 'warmup'?",
        "method.name: Expected a method's name, but got 'one-cicle'; did you mean 'one-cycle'?",
        "sede: unknown key; did you mean 'seed'?",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: [", "cannot be read"),
        ("just words", "keys and values"),
        ("{}", "data: a value is needed here"),
        ("{data: {name: digits}, model: {name: small-cnn}, method: {}}", "method.name: a name is needed here"),
        (
            "{data: {name: digits}, model: {name: small-cnn}, method: {name: dense, ratio: 1}}",
            "method.ratio: unknown key",
        ),
        (
            "{data: {name: digits}, model: {name: small-cnn}, method: {name: dense}, "
            "train: {optimizer: {name: sgd, learning_rate: .nan}}}",
            "train.optimizer.learning_rate: ",
        ),
    ],
)
def test_a_faulty_recipe_is_a_clear_error(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=r"mine\.yaml") as caught:
        load_recipe(write(tmp_path, text))
    assert words in str(caught.value)


@pytest.mark.parametrize("no", ["no", "'no'"])
def test_no_is_a_word_where_one_is_expected_and_false_elsewhere(no: str) -> None:
    recipe = load_recipe("digits", [f"train.precision={no}", f"data.augment={no}"])
    assert recipe.train.precision == "no"
    assert recipe.data.augment is False


def test_numbers_may_have_an_exponent_wherever_they_stand(tmp_path: Path) -> None:
    values = ["train.epochs=1e1", "train.optimizer.learning_rate=5E-2", "model.options={rate: 1e-3, tag: '2e5'}"]
    recipe = load_recipe("digits", values)
    assert recipe.train.epochs == 10
    assert recipe.model.options == {"rate": 0.001, "tag": "2e5"}
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'digits'"):
        load_recipe("digts")
    with pytest.raises(RecipeError, match="there is none at"):
        load_recipe("here/there.yaml")


# Overrides


def test_overrides_change_single_values() -> None:
    recipe = load_recipe("digits", ["train.epochs=3", "train.optimizer.learning_rate=1e-3", "data.augment=false"])
    base = load_recipe("digits")
    assert recipe.train.epochs == 3
    assert recipe.train.optimizer.learning_rate == 1e-3
    assert recipe.data.augment is False
    assert recipe.train.schedule == base.train.schedule


def test_another_optimizer_does_not_inherit_the_old_ones_values() -> None:
    changed = load_recipe("digits", ["train.optimizer.weight_decay=0.25", "train.optimizer.name=adamw"])
    assert changed.train.optimizer == AdamW(weight_decay=0.25)
    same = load_recipe("digits", ["train.optimizer.name=sgd"])
    assert same == load_recipe("digits")
    assert isinstance(same.train.optimizer, SGD)


def test_a_value_of_a_section_that_the_file_leaves_out_is_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "{data: {name: digits}, model: {name: small-cnn}, method: {name: dense}}")
    values = ["train.optimizer.learning_rate=0.01", "train.schedule.warmup=0.1", "task.label_smoothing=0.2"]
    recipe = load_recipe(path, values)
    assert recipe.train.optimizer == SGD(learning_rate=0.01)
    assert recipe.train.schedule == Cosine(warmup=0.1)
    assert recipe.task == Classification(label_smoothing=0.2)
    assert load_recipe(path, ["train.optimizer.name=adamw"]).train.optimizer == AdamW()
    with pytest.raises(RecipeError, match=r"train\.optimizer\.lr: unknown key; known are: learning_rate, momentum"):
        load_recipe(path, ["train.optimizer.lr=3"])


def test_another_task_does_not_inherit_the_old_ones_values(tmp_path: Path) -> None:
    text = "{data: {name: digits}, model: {name: small-cnn}, method: {name: dense}, task: {name: classification, "
    path = write(tmp_path, text + "label_smoothing: 0.2}}")
    assert load_recipe(path, ["task.name=regression"]).task == Regression()


def test_a_faulty_override_is_a_clear_error() -> None:
    with pytest.raises(RecipeError, match="did you mean 'epochs'"):
        load_recipe("digits", ["train.epoch=3"])
    with pytest.raises(RecipeError, match=r"train\.epochs=3"):
        load_recipe("digits", ["train.epochs"])
    with pytest.raises(RecipeError, match="not a section"):
        load_recipe("digits", ["model.name.width=3"])


# Running


def test_another_method_does_not_inherit_the_old_ones_values() -> None:
    assert load_recipe("digits", ["method.name=dense"]).method.model_dump() == {"name": "dense"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("method.budget={}", "at least one"),
        ("method.budget.macs=1.5", "fraction"),
        ("method.budget={mac: 0.5}", "did you mean 'macs'"),
        ("method.phases.sparsity_end=0.01", "sparsity_start"),
        ("method.phases.treshold=0.9", "did you mean 'threshold'"),
    ],
)
def test_impossible_one_cycle_settings_are_clear_errors(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe("digits", [override])


def test_fresh_weights_are_no_trained_ones(tmp_path: Path) -> None:
    settings = ["method={name: uniform, budget: {macs: 0.5}}", f"model.weights={tmp_path / 'weights.pt'}"]
    with pytest.raises(RecipeError, match="'uniform' trains fresh ones"):
        load_recipe("digits", settings)


@pytest.fixture
def tiny() -> Recipe:
    return load_recipe("digits", TINY)


def test_a_run_leaves_everything_in_its_folder(tiny: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    records: list[object] = []
    report = run_recipe(tiny, folder, listeners=[records.append])
    assert load_recipe(str(folder.recipe)) == tiny
    written = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert written == records
    assert [record["kind"] for record in written] == ["start", "epoch", "epoch", "end"]
    saved = json.loads(folder.report.read_text())
    assert saved["version"] == 1
    assert saved["test_accuracy"] == report.test_accuracy
    assert report.dense.macs == report.pruned.macs > 0
    assert set(report.dense.latency) == {1, 64}
    assert folder.model.exists()


def test_a_run_is_read_as_a_table(tmp_path: Path) -> None:
    lines = [{"kind": "epoch", "epoch": 1, "seconds": {"train": 0.5}}, {"kind": "end", "test_accuracy": 90.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    frame = icycle.read_run(tmp_path)
    assert frame["kind"].tolist() == ["epoch", "end"]
    assert frame["seconds.train"][0] == 0.5
    with pytest.raises(RecipeError, match=r"metrics\.jsonl"):
        icycle.read_run(tmp_path / "none")


def test_equal_seeds_give_equal_runs(tiny: Recipe, tmp_path: Path) -> None:
    first, second = (run_recipe(tiny, RunFolder(tmp_path / name)) for name in ("a", "b"))
    assert first.test_accuracy == second.test_accuracy
    assert first.validation_accuracy == second.validation_accuracy


def test_the_test_set_is_read_once_when_everything_is_decided(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    class Spy:
        """Stands in for the test loader and for its images; any use of them is written down."""

        def __init__(self, loader: TensorLoader) -> None:
            self._loader = loader

        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            log.append("test")
            return iter(self._loader)

        def __getattr__(self, name: str) -> object:
            log.append(name)
            return getattr(self._loader, name)

    seal = SealedLoader.__init__
    monkeypatch.setattr(SealedLoader, "__init__", lambda self, loader: seal(self, Spy(loader)))  # type: ignore[arg-type]
    run_recipe(tiny, RunFolder(tmp_path / "run"), listeners=[lambda record: log.append(record["kind"])])
    assert log == ["start", "epoch", "epoch", "test", "end"]


def test_a_run_folder_is_never_overwritten(tiny: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("mine")
    with pytest.raises(RecipeError, match=r"never overwritten; choose another$"):
        run_recipe(tiny, RunFolder(tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


def test_the_command_that_goes_on_is_one_for_a_shell(tiny: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "läufe" / "s 1")
    folder.create(tiny)
    assert shlex.split(folder.command) == ["icycle", "run", "--resume", str(folder.path)]
    with pytest.raises(RecipeError, match=re.escape(folder.command)):
        open_run(folder.path)


def test_run_folders_are_counted(tmp_path: Path) -> None:
    (tmp_path / "digits-1").mkdir()
    (tmp_path / "digits-2").mkdir()
    assert next_run("digits", tmp_path).path == tmp_path / "digits-3"


def test_one_cycle_meets_its_budget_and_tells_about_the_removal(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    report = run_recipe(load_recipe("digits", ONE_CYCLE), folder)
    assert 0.49 <= report.pruned.macs / report.dense.macs <= 0.51
    assert report.pruned.params < report.dense.params
    assert report.pruned.file_bytes < report.dense.file_bytes
    (removal,) = report.removals
    assert (removal.macs_before, removal.macs_after) == (report.dense.macs, report.pruned.macs)
    assert 0 < removal.epoch <= 2.01
    assert report.seconds["search"] > 0
    assert report.seconds["recalibration"] > 0
    written = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    kinds = [record["kind"] for record in written]
    assert kinds.count("removal") == kinds.count("saliency") == 1
    assert "search" in kinds
    assert "search" not in kinds[kinds.index("saliency") :]
    (choice,) = (record for record in written if record["kind"] == "saliency")
    assert choice["criterion"] == "group_norm"
    for group in choice["groups"]:
        assert max(group["removed"], default=0) <= min(group["kept"])


def test_the_saved_model_is_the_one_that_was_tested(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    report = run_recipe(load_recipe("digits", ONE_CYCLE), folder)
    model = build_model("small-cnn", num_classes=10, in_channels=1, width=8)
    artifacts.load(folder.model, model)
    assert sum(parameter.numel() for parameter in model.parameters()) == report.pruned.params
    data = load_data("digits", batch_size=64, subset=300)
    assert evaluate(model, data.test.open()) == report.test_accuracy


class InterruptedRunError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
@pytest.mark.parametrize("overrides", [(*TINY, "train.epochs=4"), ONE_CYCLE], ids=["dense", "one-cycle"])
def test_a_resumed_run_ends_like_one_that_was_never_cut(overrides: tuple[str, ...], epoch: int, tmp_path: Path) -> None:
    recipe = load_recipe("digits", overrides)

    def stop(record: object) -> None:
        if record["kind"] == "epoch" and record["epoch"] == epoch:  # type: ignore[index]
            raise InterruptedRunError

    whole = run_recipe(recipe, RunFolder(tmp_path / "whole"))
    folder = RunFolder(tmp_path / "cut")
    with pytest.raises(InterruptedRunError):
        run_recipe(recipe, folder, listeners=[stop])
    resumed = run_recipe(recipe, folder, resume=True)
    written = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [record["epoch"] for record in written if record["kind"] == "epoch"] == [1, 2, 3, 4]
    assert resumed.pruned.macs == whole.pruned.macs
    assert resumed.removals == whole.removals
    assert resumed.test_accuracy == whole.test_accuracy
    assert resumed.validation_accuracy == whole.validation_accuracy
    with pytest.raises(RecipeError, match="unfinished"):
        run_recipe(recipe, folder, resume=True)


@pytest.mark.parametrize("kind", ["search", "epoch", "removal"])
def test_a_run_that_is_asked_to_stop_goes_on_where_it_was(kind: str, tmp_path: Path) -> None:
    whole, cut = stopped_and_resumed(load_recipe("digits", ONE_CYCLE), tmp_path, lambda record: record["kind"] == kind)
    assert weights(cut) == weights(whole)
    kinds = [[r["kind"] for r in records(folder) if r["kind"] != "start"] for folder in (whole, cut)]
    assert kinds[0] == kinds[1]


def test_two_processes_cannot_go_on_with_one_run(tiny: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny)
    with folder.locked(), pytest.raises(RecipeError, match="another process"):
        run_recipe(tiny, folder, resume=True)
    run_recipe(tiny, folder, resume=True)  # a lock file that was left says nothing


def test_a_recipe_that_was_changed_under_its_run_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny)
    folder.recipe.write_text(folder.recipe.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(RecipeError, match="was changed"):
        run_recipe(folder.saved_recipe(), folder, resume=True)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "..", ".x", "a\\b", "a\nb", "x" * 101])
def test_the_name_of_a_run_stays_in_its_folder(name: str) -> None:
    with pytest.raises(RecipeError, match="name that a folder can have"):
        load_recipe("digits", [f"name={json.dumps(name)}"])


def test_a_report_that_cannot_be_written_is_a_clear_error_and_the_run_goes_on(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("icycle.recipes._run.write_page", full)
    with pytest.raises(RecipeError, match="No space left"):
        run_recipe(tiny, folder)
    monkeypatch.undo()
    run_recipe(tiny, folder, resume=True)
    kinds = [record["kind"] for record in records(folder)]
    assert kinds == ["start", "epoch", "epoch", "start", "end"]  # no epoch was trained again


def test_a_run_is_resumed_with_its_own_settings_only(tiny: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny)
    with pytest.raises(RecipeError, match="differ: seed, train"):
        run_recipe(load_recipe("digits", [*TINY, "seed=5", "train.epochs=7"]), folder, resume=True)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        run_recipe(tiny, RunFolder(tmp_path), resume=True)


# Reporting


def facts(macs: int, milliseconds: float) -> NetworkFacts:
    latency = Latency(milliseconds, milliseconds, milliseconds, runs=5)
    latencies = {1: latency, 64: Latency(9.0, 8.0, 10.0, 5)}
    return NetworkFacts(macs=macs, params=10, file_bytes=40, latency=latencies, memory=macs)


def shown(dense: NetworkFacts, pruned: NetworkFacts, removals: int = 1) -> str:
    removal = Removal(3.5, 100, 50, accuracy_before=90.0, accuracy_after=80.0, macs_kept=0.4, removals=removals)
    report = Report("mine", "one-cycle", dense, pruned, (removal,), 91.0, 92.0, {"train": 7.25, "search": 0.5})
    console = Console(file=io.StringIO(), width=200)
    console.print(render(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_shows_what_was_gained_and_lost() -> None:
    text = shown(facts(100, 2.0), facts(50, 1.0))
    assert "activations, bytes" in text
    for part in ("50.0%", "2.00 ms", "3.50 epochs", "90.00", "80.00", "91.00", "92.00", "7.2", "7.8"):
        assert part in text
    assert "SLOWER" not in text
    assert "no clear change" in text  # at batch 64, where the quartiles are the same


def test_where_a_latency_was_asked_for_it_is_told_on_that_target() -> None:
    one, other = Latency(8.0, 7.9, 8.1, 40), Latency(3.0, 2.9, 3.1, 40)
    report = Report("mine", "ice", facts(100, 2.0), facts(50, 1.0), (), 91.0, 92.0, {"train": 1.0})
    asked = replace(report, asked_latency=AskedLatency("onnxruntime", 16, one, other))
    assert "asked for" not in summary(report)
    assert "latency asked for (onnxruntime, batch 16): 37.5%" in summary(asked)
    assert json.loads(asked.to_json())["asked_latency"]["pruned"]["median"] == 3.0


def test_removals_in_steps_are_told_from_the_first_to_the_last() -> None:
    assert "just after it, 40.0% of the MACs left" in shown(facts(100, 2.0), facts(50, 1.0))
    text = shown(facts(100, 2.0), facts(50, 1.0), removals=4)
    assert "before the first of 4 removals" in text
    assert "just after the last, after 3.50 epochs, 40.0% of the MACs left" in text


def test_no_ratio_where_the_machine_does_not_tell_the_two_apart() -> None:
    noisy = NetworkFacts(macs=50, params=10, file_bytes=40, latency={1: Latency(3.0, 0.5, 9.0, 5)}, memory=8)
    quiet = replace(facts(100, 1.0), latency={1: Latency(1.0, 1.0, 1.0, 5)})
    text = shown(quiet, noisy)
    assert "SLOWER" not in text and "no clear change" in text


def test_no_ratio_where_one_of_the_two_is_too_noisy() -> None:
    dense, pruned = Latency(11.56, 11.32, 12.85, 40), Latency(10.27, 2.17, 10.96, 40)
    assert not pruned.told_apart(dense) and not dense.told_apart(pruned)
    assert replace(pruned, lower=10.0).told_apart(dense)


def test_a_slower_network_is_said_to_be_slower() -> None:
    text = shown(facts(100, 1.0), facts(50, 1.5))
    assert "SLOWER than the dense one at batch 1: 1.50 times" in text
    assert "batch 64:" not in text


def test_file_bytes_is_the_size_of_the_file(tmp_path: Path) -> None:
    model = build_model("small-cnn", num_classes=10, in_channels=1, width=8)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert file_bytes(model) == (tmp_path / "model.safetensors").stat().st_size
