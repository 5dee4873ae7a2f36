"""Distillation: the loss against its definition, who teaches when, and that a resumed run has the same teacher."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from cut_runs import stopped_and_resumed, weights
from icycle.errors import RecipeError
from icycle.recipes import RunFolder, load_recipe, run_recipe
from icycle.tasks import LanguageModelling, MultiLabel, Regression, Segmentation, TokenClassification
from icycle.training import Batch, Classification, Distill, Supervised, Task, Teacher, Trainer, TrainSettings

SMALL = ("train.epochs=3", "model.width=8", "data.subset=300", "train.distill.weight=0.7")
ONE_CYCLE = (*SMALL, "method.round_to=1", "method.phases.sparsity_end=0.5")


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


def batch(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 1, 4, 4, generator=generator), torch.randint(3, (8,), generator=generator)


def test_the_loss_is_its_definition() -> None:
    teacher, model, (inputs, labels) = network(1), network(2), batch()
    own, wanted = model(inputs), copy.deepcopy(teacher).eval()(inputs)
    soft = kl_div(log_softmax(own / 3, dim=1), softmax(wanted / 3, dim=1), reduction="batchmean") * 9
    expected = 0.75 * cross_entropy(own, labels) + 0.25 * soft
    taught = Teacher(teacher, Distill(weight=0.25, temperature=3.0), "no", trained=True)
    assert torch.allclose(taught.loss(network(2), (inputs, labels), Classification(), 0.5), expected)


def test_a_teacher_from_the_midst_of_a_run_is_listened_to_less_and_less() -> None:
    trained = Teacher(network(1), Distill(weight=0.4), "no", trained=True)
    assert [trained.weight(progress) for progress in (0.0, 0.5, 1.0)] == [0.4, 0.4, 0.4]
    own = Teacher(network(1), Distill(weight=0.4), "no", trained=False)
    own.take(network(2), since=0.2)
    assert [own.weight(progress) for progress in (0.2, 0.6, 1.0)] == pytest.approx([0.4, 0.2, 0.0])
    resumed = Teacher(network(1), Distill(weight=0.4), "no", trained=False)
    resumed.load_state_dict(own.state_dict())
    assert resumed.weight(0.6) == own.weight(0.6)


def test_a_teacher_neither_learns_nor_moves() -> None:
    network_, data = network(1), [batch(seed) for seed in range(4)]
    before = copy.deepcopy(network_.state_dict())
    settings = TrainSettings.model_validate({"epochs": 2, "batch_size": 8, "distill": {"teacher": "somewhere"}})
    Trainer(network(2), settings, 4, teacher=network_).fit(data, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network_.state_dict().items())
    assert network_.training
    assert all(parameter.grad is None for parameter in network_.parameters())


def test_a_pupil_comes_nearer_to_its_teacher() -> None:
    teacher, data = network(1).eval(), [batch(seed) for seed in range(8)]

    def distance(distill: dict[str, float] | None) -> float:
        settings = {"epochs": 20, "batch_size": 8, "optimizer": {"name": "sgd", "learning_rate": 0.05}}
        model = network(2)
        chosen = TrainSettings.model_validate({**settings, "distill": distill})
        Trainer(model, chosen, len(data), teacher=teacher if distill else None).fit(data, data)
        with torch.no_grad():
            return sum(float((model.eval()(inputs) - teacher(inputs)).square().mean()) for inputs, _ in data)

    assert distance({"weight": 1.0, "temperature": 2.0}) < 0.25 * distance(None)


def test_a_teacher_computes_in_its_own_precision() -> None:
    teacher = Teacher(network(), Distill(precision="bf16"), "no", trained=True)
    assert teacher.outputs(batch()[0]).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (
            Teacher(network(), Distill(precision="no"), "bf16", trained=True).outputs(batch()[0]).dtype == torch.float32
        )


@pytest.mark.parametrize(
    ("task", "shape", "targets"),
    [
        (Classification(), (4, 5), torch.zeros(4, dtype=torch.int64)),
        (MultiLabel(), (4, 5), torch.zeros(4, 5)),
        (Regression(), (4, 2), torch.zeros(4, 2)),
        (Segmentation(), (2, 3, 4, 4), torch.zeros(2, 8, 8, dtype=torch.int64)),
        (TokenClassification(), (2, 6, 5), torch.zeros(2, 6, dtype=torch.int64)),
        (LanguageModelling(), (2, 6, 5), torch.zeros(2, 6, dtype=torch.int64)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_task_can_be_taught(task: Supervised, shape: tuple[int, ...], targets: torch.Tensor) -> None:
    """The loss is least, and none, where the outputs are the teacher's."""
    taught, other = torch.randn(shape), torch.randn(shape)
    assert task.can_be_taught
    assert float(task.imitation_loss(taught, taught, targets, 4.0)) == pytest.approx(0, abs=1e-6)
    assert float(task.imitation_loss(other, taught, targets, 4.0)) > 1e-3


def test_what_is_padding_teaches_nothing() -> None:
    task, taught = TokenClassification(), torch.randn(1, 4, 3)
    targets = torch.tensor([[0, 1, -100, -100]])
    changed = taught.clone()
    changed[:, 2:] += torch.randn(1, 2, 3)
    assert float(task.imitation_loss(changed, taught, targets, 1.0)) == pytest.approx(0, abs=1e-6)
    changed[:, 0] += torch.tensor([1.0, 0.0, 0.0])
    whole = task.imitation_loss(changed[:, :2], taught[:, :2], targets[:, :2], 1.0)
    assert torch.allclose(task.imitation_loss(changed, taught, targets, 1.0), whole)


def test_a_label_of_many_is_a_class_of_two() -> None:
    own, taught = torch.randn(3, 4), torch.randn(3, 4)
    p, q = (taught / 2).sigmoid(), (own / 2).sigmoid()
    expected = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert torch.allclose(MultiLabel().imitation_loss(own, taught, torch.zeros(3, 4), 2.0), expected, atol=1e-6)


# Recipes


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("method.name=dense",), "train.distill.teacher: expected the path of trained weights"),
        (("method.name=at-init",), "train.distill.teacher"),
        (("method.name=uniform",), "train.distill.teacher"),
        (("train.distill.weight=0",), "train.distill.weight"),
    ],
)
def test_where_there_is_no_teacher_that_is_said(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe("digits", (*SMALL, *overrides))


def test_a_teacher_that_is_not_there_leaves_no_folder(tmp_path: Path) -> None:
    recipe = load_recipe("digits", (*SMALL, "method.name=dense", f"train.distill.teacher={tmp_path / 'nothing'}"))
    with pytest.raises(RecipeError, match="nothing"):
        run_recipe(recipe, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def taught_by(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """The number of the teacher's parameters, and its share of the loss, at each step that it teaches."""
    seen: list[tuple[int, float]] = []
    loss = Teacher.loss

    def watched(self: Teacher, model: nn.Module, batch: Batch, task: Task, progress: float) -> torch.Tensor:
        parameters = sum(parameter.numel() for parameter in self._network.parameters())
        seen.append((parameters, self.weight(progress)))
        return loss(self, model, batch, task, progress)

    monkeypatch.setattr(Teacher, "loss", watched)
    return seen


@pytest.mark.parametrize("method", ["one-cycle", "fixed", "gradual", "ice", "one-shot", "abc"])
def test_the_dense_network_of_the_run_teaches_what_is_left_of_it(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = taught_by(monkeypatch)
    settings = {"ice": ("drop=null", "final_epochs=1"), "abc": ("cycles=1", "sources=2", "final_epochs=1")}
    more = [f"method.{setting}" for setting in settings.get(method, ())]
    recipe = load_recipe(
        "digits", (*SMALL, f"method.name={method}", "method.budget.macs=0.5", "method.round_to=1", *more)
    )
    report = run_recipe(recipe, RunFolder(tmp_path / "run"))
    assert report.pruned.params < report.dense.params
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = 3 * (270 // 64)
    assert {parameters for parameters, _ in seen} == {report.dense.params}
    shares = [share for _, share in seen]
    if method in ("one-cycle", "fixed", "gradual"):
        assert 0 < len(seen) < trained
        assert shares == sorted(set(shares), reverse=True)
        assert shares[0] <= recipe.train.distill.weight
    else:
        assert set(shares) == {recipe.train.distill.weight}
    assert [record for record in steps if record["kind"] == "end"]


def test_a_path_teaches_from_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_recipe(load_recipe("digits", (*SMALL[:3], "method.name=dense")), RunFolder(tmp_path / "dense"))
    seen = taught_by(monkeypatch)
    teacher = f"train.distill.teacher={tmp_path / 'dense' / 'model'}"
    report = run_recipe(load_recipe("digits", (*SMALL, "method.name=at-init", teacher)), RunFolder(tmp_path / "run"))
    assert set(seen) == {(report.dense.params, 0.7)} and len(seen) == 3 * (270 // 64)


@pytest.mark.parametrize("kind", ["search", "removal", "epoch"])
def test_a_resumed_run_has_the_same_teacher(kind: str, tmp_path: Path) -> None:
    recipe = load_recipe("digits", ONE_CYCLE)
    whole, cut = stopped_and_resumed(recipe, tmp_path, lambda r: r["kind"] == kind and r.get("epoch", 0) > 1)
    assert weights(cut) == weights(whole)
