"""Tasks: metrics against a few lines by hand, and both methods on each, by the bundled recipes."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn

from icycle.errors import DataError, RecipeError, TrainingError
from icycle.methods._built_in import BuiltInTraining
from icycle.methods._removal import RemovalLog
from icycle.recipes import RunFolder, load_recipe, run_recipe
from icycle.recipes._run import _context
from icycle.tasks import Classification, LanguageModelling, MultiLabel, Regression, Segmentation, TokenClassification
from icycle.training import Recorder, Supervised, Task, measure

RECIPES = ["multi-label", "regression", "segmentation", "language-modelling", "token-classification"]


def measured(task: Task, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """The task's metrics of a network that gives `outputs`, in two batches."""
    halves = zip(outputs.split(len(outputs) // 2), targets.split(len(targets) // 2), strict=True)
    return measure(nn.Identity(), list(halves), task)  # type: ignore[arg-type]


def test_regression_measures_errors() -> None:
    outputs, targets = torch.randn(8, 2), torch.randn(8, 2)
    found = measured(Regression(), outputs, targets)
    assert found["mean squared error"] == pytest.approx(float((outputs - targets).square().mean()))
    assert found["mean absolute error"] == pytest.approx(float((outputs - targets).abs().mean()))


def test_perplexity_is_the_exponential_of_the_mean_loss_of_the_next_word() -> None:
    logits, tokens = torch.randn(4, 6, 5), torch.randint(5, (4, 6))
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    task = LanguageModelling()
    assert torch.allclose(task.loss_of(logits, tokens), loss)
    assert measured(task, logits, tokens)["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)


def test_tokens_and_pixels_that_are_ignored_count_nowhere() -> None:
    logits, targets = torch.randn(4, 6, 3), torch.randint(3, (4, 6))
    targets[:, 0] = -100
    right = (logits.argmax(-1) == targets)[:, 1:].float().mean()
    assert measured(TokenClassification(), logits, targets)["token accuracy"] == pytest.approx(100 * float(right))
    logits, targets = torch.randn(4, 3, 5, 5), torch.randint(3, (4, 5, 5))
    targets[:, 0] = 255
    found, kept = logits.argmax(1)[:, 1:], targets[:, 1:]
    overlaps = [((found == c) & (kept == c)).sum() / ((found == c) | (kept == c)).sum() for c in range(3)]
    assert measured(Segmentation(), logits, targets)["mean IoU"] == pytest.approx(
        100 * float(sum(overlaps)) / 3, rel=1e-4
    )


@pytest.mark.parametrize(
    "task", [MultiLabel(), Regression(), Segmentation(), LanguageModelling(), TokenClassification(), Classification()]
)
def test_outputs_and_targets_of_another_task_are_refused(task: Supervised) -> None:
    """A class for each of four images; numbers where classes are wanted."""
    targets = torch.zeros(4) if isinstance(task, Classification) else torch.zeros(4, dtype=torch.int64)
    with pytest.raises(DataError, match=rf"for {task.name}, but got float32\[4, 3\] and \w+\[4\]; change task.name"):
        task.loss_of(torch.randn(4, 3), targets)


def test_average_precision_of_a_perfect_order_is_100() -> None:
    targets = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]])
    found = measured(MultiLabel(), targets.float() - 0.5, targets)
    assert found == {"average precision": 100.0, "accuracy of the labels": 100.0}


def test_points_rise_as_an_error_falls_and_lead_back_to_it() -> None:
    for task in (Regression(), Classification()):
        assert task.value(task.points(3.5)) == pytest.approx(3.5)
    assert Regression().points(1.0) - Regression().points(1.01) == pytest.approx(1, abs=0.01)
    with pytest.raises(TrainingError, match="above 0"):
        Regression().points(0.0)


def test_a_removal_is_told_in_the_metric_and_not_in_points() -> None:
    context = _context(load_recipe("regression", ["data.subset=150"]), Recorder(), None)
    log = RemovalLog(context, BuiltInTraining(context), batches=2)
    log.before()
    log.after(0.0, 2, 1)
    (removal,) = log.removals
    error = measure(context.model, context.data.validation, context.task)["mean squared error"]
    assert removal.accuracy_before == removal.accuracy_after == pytest.approx(error)


def test_a_task_whose_measures_cannot_be_imported_is_refused_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(TrainingError, match=r"pip install 'icycle\[tasks\]'"):
        run_recipe(load_recipe("regression", ["train.epochs=1"]), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("method", ["one-cycle", "ice"])
def test_both_methods_run_on_every_task(name: str, method: str, tmp_path: Path) -> None:
    settings = [f"method.name={method}", "train.epochs=2", "data.subset=150"]
    report = run_recipe(load_recipe(name, settings), RunFolder(tmp_path / "run"))
    assert report.metric == load_recipe(name).task.metric
    assert report.test_metrics[report.metric] == report.test_accuracy
    assert report.pruned.macs / report.dense.macs == pytest.approx(0.5, abs=0.06)
    assert all(math.isfinite(removal.accuracy_after) for removal in report.removals)


OWN = """
    import torch
    from icycle.training import Supervised

    class Absolute(Supervised):
        metric = "error"
        higher_is_better = False
        power: float = 1.0

        def loss_of(self, outputs, targets):
            return ((outputs - targets).abs() ** self.power).mean()

        def metrics(self, model, loader):
            errors = [(model(inputs) - targets).abs().mean() for inputs, targets in loader]
            return {"error": float(sum(errors) / len(errors))}

    class Mute(Absolute):
        def metrics(self, model, loader):
            return {"something": sum(1 for _ in loader)}
"""


def test_a_task_of_ones_own_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_task.py").write_text(dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    settings = ["task.name=own_task:Absolute", "task.power=2", "train.epochs=1"]
    recipe = load_recipe("regression", settings)
    report = run_recipe(recipe, RunFolder(tmp_path / "run"))
    assert list(report.test_metrics) == ["error"]
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")) == recipe
    with pytest.raises(TrainingError, match=r"finite error, which decides, but got \{'something'"):
        run_recipe(
            load_recipe("regression", ["task.name=own_task:Mute", "train.epochs=1"]), RunFolder(tmp_path / "mute")
        )
    with pytest.raises(RecipeError, match=r"task\.name: .*did you mean 'regression'"):
        load_recipe("regression", ["task.name=regresion"])
