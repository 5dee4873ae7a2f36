"""What makes training better: averages, decay rules, accumulation, early stopping, determinism; each against its
definition, and through a removal and an interruption."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from cut_runs import stopped_and_resumed, weights
from icycle.engine import trace
from icycle.errors import RecipeError, TrainingError
from icycle.recipes import RunFolder, load_recipe, run_recipe
from icycle.structure import SubNetwork
from icycle.surgery import prune
from icycle.training import Optimizer, Trainer, TrainSettings, deterministic
from small_training import Batches, assert_equal, batches, tensors


class Network(nn.Module):
    """With batch norm, and an index that is a buffer, as relative positions are."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()
        )
        self.head = nn.Linear(6, 3)
        self.register_buffer("order", torch.tensor([0, 1, 2]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(images).mean(dim=(2, 3)))[:, self.order]


def trainer(data: Batches, model: nn.Module | None = None, **changes: object) -> Trainer:
    values = {"epochs": 3, "batch_size": 8, "optimizer": {"name": "sgd", "learning_rate": 0.05}, **changes}
    return Trainer(model or Network(), TrainSettings.model_validate(values), len(data))


class Watch:
    """Hooks that call a function after every step, from 0."""

    def __init__(self, look: Callable[[int], object]) -> None:
        self._look, self._step = look, 0

    def start_epoch(self, epoch: int) -> None:
        return

    def after_step(self) -> None:
        self._look(self._step)
        self._step += 1


# The moving average


def test_the_average_is_its_definition_and_what_is_left_in_the_end() -> None:
    data, seen = batches(), []
    learner = trainer(data, ema=0.6)
    learner.fit(data, data, hooks=Watch(lambda _: seen.append(copy.deepcopy(learner.model.state_dict()))))
    expected = seen[0]
    for steps, state in enumerate(seen[1:], start=1):
        decay = min(0.6, (1 + steps) / (10 + steps))
        for name, value in state.items():
            expected[name] = decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
    for name, value in learner.model.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_what_is_evaluated_is_the_average() -> None:
    data, validation = batches(), batches(seed=2)
    learner = trainer(data, ema=0.9)
    accuracy = learner.fit(data, validation)
    assert accuracy == learner.recorder.records[-1]["validation_accuracy"] == learner.evaluate(validation)


def test_counts_and_indices_are_not_averaged() -> None:
    data = batches()
    learner = trainer(data, ema=0.3)
    learner.fit(data, data)
    assert torch.equal(learner.model.order, torch.tensor([0, 1, 2]))
    assert int(learner.model.layers[1].num_batches_tracked) == 12


def test_a_fine_tune_ends_with_its_own_average() -> None:
    data = batches()
    averaged, plain = trainer(data, ema=0.5), trainer(data)
    for learner in (averaged, plain):
        learner.train_for(data, 1.0, lambda _: 0.05)
    assert averaged.judged is averaged.model
    weights = [learner.model.head.weight for learner in (averaged, plain)]
    assert not torch.equal(*weights)
    assert torch.allclose(*weights, atol=0.2)


class PruneAtStep(Watch):
    def __init__(self, learner: Trainer, step: int, stop: int | None = None) -> None:
        super().__init__(self._prune_when_due)
        self._learner, self._when, self._stop = learner, step, stop

    def _prune_when_due(self, step: int) -> None:
        if step == self._when:
            model = self._learner.model
            structure = trace(model, torch.zeros(1, 1, 8, 8))
            subnet = SubNetwork.random(structure, 0.5, 0)
            prune(model, structure, subnet, self._learner.optimizer, averaged=self._learner.averaged)
            self._learner.lay_out()
        if step == self._stop:
            raise StopError


class StopError(Exception):
    """The process ends here."""


def test_the_average_loses_the_same_channels() -> None:
    data = batches()
    learner = trainer(data, ema=0.9)
    learner.fit(data, data, hooks=PruneAtStep(learner, 5))
    assert learner.model.layers[0].weight.shape == (4, 1, 3, 3)


@pytest.mark.parametrize("stop", [2, 5, 9])
@pytest.mark.parametrize(
    "changes",
    [
        {"ema": 0.9},
        {"early_stopping": 1},
        {"accumulate": 3, "ema": 0.5},
        {"weight_decay": {"norms-and-biases": 0}},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_resumed_run_ends_like_one_that_was_never_cut(changes: dict[str, object], stop: int, tmp_path: Path) -> None:
    """Epochs of 4 batches; cut off after some steps, it goes on from the end of the epoch before."""
    data, validation = batches(), batches(seed=2)

    def run(folder: Path, seed: int, stop: int | None) -> Trainer:
        learner = trainer(data, epochs=4, **changes)
        torch.manual_seed(seed)
        step = -1 if folder.exists() else 1
        learner.fit(data, validation, hooks=PruneAtStep(learner, step, stop), checkpoint=folder)
        return learner

    whole = run(tmp_path / "whole", 7, None)
    stop = stop // 2 if "accumulate" in changes else stop
    try:
        run(tmp_path / "cut", 7, stop)
    except StopError:
        resumed = run(tmp_path / "cut", 123, None)
        assert_equal(tensors(resumed.model), tensors(whole.model))
    else:
        assert "early_stopping" in changes  # it had ended by itself


# Gradient accumulation


def test_batches_that_are_accumulated_are_one_larger_batch() -> None:
    data = batches(count=6, size=4)
    joined = [tuple(torch.cat(parts) for parts in zip(data[n], data[n + 1], strict=True)) for n in (0, 2, 4)]
    small = trainer(data, Network(norm=False), accumulate=2, clip_norm=0.5)
    large = trainer(joined, Network(norm=False), clip_norm=0.5)  # type: ignore[arg-type]
    small.fit(data, data)
    large.fit(joined, data)  # type: ignore[arg-type]
    assert small.step == large.step == small.steps == 9
    for one, other in zip(tensors(small.model), tensors(large.model), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    losses = [[record["loss"] for record in each.recorder.records] for each in (small, large)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_last_window_of_an_epoch_may_be_shorter_and_the_last_batch_smaller() -> None:
    """Every example of a step weighs the same."""
    data = [*batches(count=4, size=4), *batches(count=1, size=2, seed=3)]
    windows = [data[0:3], data[3:5]]
    joined = [tuple(torch.cat(parts) for parts in zip(*window, strict=True)) for window in windows]
    small = trainer(data, Network(norm=False), accumulate=3)
    large = trainer(joined, Network(norm=False))  # type: ignore[arg-type]
    small.fit(data, data)
    large.fit(joined, data)  # type: ignore[arg-type]
    assert small.step == large.step == 6
    for one, other in zip(tensors(small.model), tensors(large.model), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_hooks_are_called_once_a_step_and_rates_follow_the_steps() -> None:
    data, rates = batches(), []
    learner = trainer(data, accumulate=4)
    learner.fit(data, data, hooks=Watch(lambda _: rates.append(learner.optimizer.param_groups[0]["lr"])))
    assert len(rates) == 3
    assert rates == pytest.approx([0.05 * factor for factor in (0.9330, 0.5, 0.0670)], rel=1e-3)


def test_a_fine_tune_counts_steps_of_the_optimizer() -> None:
    data, seen = batches(), []
    learner = trainer(data, accumulate=3)
    learner.train_for(data, 2.5, lambda progress: seen.append(progress) or 0.05)
    steps = 2 + 2 + 1  # 3 + 1 batches, twice, and 2
    assert seen == pytest.approx([(step + 0.5) / steps for step in range(steps)])


# Weight decay


def decays(learner: Trainer) -> dict[str, float]:
    names = {parameter: name for name, parameter in learner.model.named_parameters()}
    return {
        names[parameter]: group["weight_decay"]
        for group in learner.optimizer.param_groups
        for parameter in group["params"]
    }


def test_the_first_rule_that_matches_a_parameter_says_its_decay() -> None:
    found = decays(trainer(batches(), weight_decay={"head.*": 0.1, "norms-and-biases": 0, "layers.0.*": 0.2}))
    assert found == {
        "layers.0.weight": 0.2,
        "layers.0.bias": 0,
        "layers.1.weight": 0,
        "layers.1.bias": 0,
        "layers.3.weight": 5e-4,
        "layers.3.bias": 0,
        "head.weight": 0.1,
        "head.bias": 0.1,
    }


def test_rules_outlive_a_removal() -> None:
    data = batches()
    learner = trainer(data, weight_decay={"norms-and-biases": 0})
    before = decays(learner)
    learner.fit(data, data, hooks=PruneAtStep(learner, 5))
    assert decays(learner) == before


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"'heads\.\*' matches none of layers\.0\.weight"):
        trainer(batches(), weight_decay={"heads.*": 0})


class Rprop(Optimizer):
    name: str = "rprop"
    learning_rate: float = 0.01

    def build(self, parameters: object) -> torch.optim.Optimizer:
        return torch.optim.Rprop(parameters, lr=self.learning_rate)  # type: ignore[arg-type]


def test_an_optimizer_without_weight_decay_is_an_error() -> None:
    with pytest.raises(TrainingError, match="Rprop has none"):
        trainer(batches(), optimizer=Rprop(), weight_decay={"head.*": 0})


# Early stopping


class Falling:
    """A validation split on which the network is best after two epochs: its labels are changed then."""

    def __init__(self, data: Batches, learner: list[Trainer]) -> None:
        self._data, self._learner = data, learner

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        model = self._learner[0].judged
        right = 0.9 - 0.2 * abs(self._learner[0].epoch - 1)
        for inputs, _ in self._data:
            labels = model(inputs).argmax(dim=1)
            wrong = round((1 - right) * len(labels))
            labels[:wrong] = (labels[:wrong] + 1) % 3
            yield inputs, labels


def test_training_ends_after_its_patience_with_the_best_weights() -> None:
    data = batches(size=20)
    learner = trainer(data, epochs=9, early_stopping=2)
    kept: list[list[torch.Tensor]] = []
    hooks = Watch(lambda step: kept.append(tensors(learner.model)) if step % 4 == 3 else None)
    accuracy = learner.fit(data, Falling(data, [learner]), hooks=hooks)
    values = [record["validation_accuracy"] for record in learner.recorder.records]
    assert values == pytest.approx([70, 90, 70, 50])
    assert accuracy == pytest.approx(90)
    assert_equal(tensors(learner.model), kept[1])


class Unsettled(Watch):
    settled = False


def test_nothing_stops_before_the_channels_are_gone() -> None:
    data = batches(size=20)
    learner = trainer(data, epochs=6, early_stopping=1)
    learner.fit(data, Falling(data, [learner]), hooks=Unsettled(lambda _: None))
    assert learner.epoch == 6


# Deterministic


def test_deterministic_mode_is_left_as_it_was_found() -> None:
    torch.use_deterministic_algorithms(False)
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_what_cannot_be_deterministic_is_an_error_in_our_words() -> None:
    data = batches()
    learner = trainer(data, deterministic=True)

    def complain(_: int) -> None:
        raise RuntimeError("upsample_backward does not have a deterministic implementation")

    with pytest.raises(TrainingError, match=r"upsample_backward.*train\.deterministic"):
        learner.fit(data, data, hooks=Watch(complain))
    assert not torch.are_deterministic_algorithms_enabled()


# Recipes

ALL = (
    "model.width=8",
    "data.subset=300",
    "data.validation=0.2",
    "train.epochs=4",
    "train.ema=0.9",
    "train.batch_size=16",
    "train.accumulate=2",
    "train.weight_decay={norms-and-biases: 0}",
    "train.deterministic=true",
    "train.early_stopping=2",
    "train.clip_norm=1",
)


@pytest.mark.parametrize("method", ["dense", "one-cycle", "gradual", "at-init", "uniform", "ice", "one-shot"])
def test_all_of_it_goes_with_every_method(method: str, tmp_path: Path) -> None:
    budget = () if method == "dense" else ("method.budget.macs=0.6", "method.round_to=1")
    recipe = load_recipe("digits", (*ALL, f"method.name={method}", *budget))
    report = run_recipe(recipe, RunFolder(tmp_path / "run"))
    assert report.test_accuracy > 20
    assert method == "dense" or report.pruned.params < report.dense.params


@pytest.mark.parametrize("kind", ["search", "removal", "epoch"])
def test_a_run_with_all_of_it_goes_on_to_the_same_weights(kind: str, tmp_path: Path) -> None:
    recipe = load_recipe("digits", (*ALL, "method.round_to=1", "method.phases.sparsity_end=0.5", "train.distill={}"))
    whole, cut = stopped_and_resumed(recipe, tmp_path, lambda r: r["kind"] == kind and r.get("epoch", 0) > 1.2)
    assert weights(cut) == weights(whole)


def test_a_network_that_comes_trained_is_not_stopped_early(tmp_path: Path) -> None:
    quick = ("model.width=8", "data.subset=300", "train.epochs=1")
    run_recipe(load_recipe("digits", (*quick, "method.name=dense")), RunFolder(tmp_path / "dense"))
    weights = f"model.weights={tmp_path / 'dense' / 'model'}"
    recipe = load_recipe("digits-ice", (*quick, weights, "method.round_to=1", "train.early_stopping=1"))
    with pytest.raises(RecipeError, match="early_stopping"):
        run_recipe(recipe, RunFolder(tmp_path / "run"))
