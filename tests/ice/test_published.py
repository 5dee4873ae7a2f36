"""ICE as published: what it freezes, what it trains on, and with which optimizer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ice_runs import recipe_of, records
from ice_toy import EXAMPLE, Asked, prune
from icycle.errors import DataError, TrainingError
from icycle.methods import FineTune
from icycle.methods.ice._layers import layers_of
from icycle.methods.ice._published import least_moved, movement
from icycle.recipes import RunFolder, run_recipe
from icycle.training import SGD
from icycle.training._distill import Teacher
from networks import residual_network as make_model


def test_movement_is_relative_and_what_grows_makes_up_for_what_shrinks() -> None:
    before = {"a": [torch.tensor([3.0, 4.0])], "b": [torch.tensor([1.0]), torch.tensor([0.0])]}
    after = {"a": [torch.tensor([4.0, 3.0])], "b": [torch.tensor([1.0]), torch.tensor([2.0])]}
    assert movement(before, after) == pytest.approx({"a": 0.0, "b": 2.0})


def test_the_convolutions_that_moved_least_are_frozen_and_the_stem_never() -> None:
    layers = layers_of(make_model(), EXAMPLE)
    assert [layer.slides for layer in layers] == [True] * 5 + [False]
    moved = {layer.name: moved for layer, moved in zip(layers, [0.0, 0.5, 0.2, 0.4, 0.3, 0.0], strict=True)}
    assert [layer.name for layer in least_moved(layers, moved, 0.5)] == ["3.conv2", "4.conv2"]
    assert len(least_moved(layers, moved, 0.3)) == 2  # of the 4 within blocks, rounded up
    assert [layer.name for layer in least_moved(layers, moved, 0.99)] == ["3.conv1", "3.conv2", "4.conv1", "4.conv2"]


def test_the_probe_trains_a_copy_of_the_dense_network_that_is_thrown_away(trained: nn.Module) -> None:
    asked, probed = Asked(), []
    weights = copy.deepcopy(trained.state_dict())

    def fine_tune(model: nn.Module, request: FineTune) -> None:
        asked(model, request)
        if request.kind == "probe":
            probed.append(model)
            for name, value in trained.state_dict().items():
                assert torch.equal(value, weights[name]), "the probe trained the network itself"

    result = prune(trained, fine_tune, freeze=0.5, freezing="published", threshold=99.0, final_epochs=1)
    assert [request.kind for request in asked.requests] == ["probe", "final"]
    probe = asked.requests[0]
    assert (probe.step, probe.epochs, probe.learning_rate, probe.frozen) == (0, 1.0, 0.01, None)
    assert probed[0] is not trained
    assert result.frozen is not None
    assert len(result.frozen.layers) == 2  # of the 4 convolutions of blocks
    assert (result.fine_tunes, result.epochs) == (0, 2.0)


def test_a_probe_cannot_train_a_copy_with_the_network_s_own_optimizer(trained: nn.Module) -> None:
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)
    with pytest.raises(TrainingError, match="trains a copy"):
        prune(trained, freeze=0.5, freezing="published", optimizer=optimizer)
    with pytest.raises(TrainingError, match="as long as"):
        prune(trained, freeze=0.5, freezing="published", epochs=0)


def test_steps_use_their_share_of_the_data_and_the_end_uses_all(trained: nn.Module) -> None:
    asked = Asked()
    result = prune(trained, asked, threshold=None, data_share=0.25, epochs=2, final_epochs=1)
    assert [(request.epochs, request.data_share) for request in asked.requests] == [(0.5, 0.25)] * 3 + [(1.0, 1.0)]
    assert result.epochs == 2.5


class Watched(SGD):
    """SGD that remembers what it was made for."""

    def build(self, parameters: Any) -> torch.optim.Optimizer:
        found = list(parameters)
        MADE.append([parameter.shape for parameter in found])
        return super().build(found)


MADE: list[list[torch.Size]] = []


def test_a_recipe_s_fine_tunes_have_an_optimizer_each_and_their_share_of_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MADE.clear()
    monkeypatch.setattr("icycle.methods.ice._methods.SGD", Watched)
    folder = RunFolder(tmp_path / "run")
    settings = ("train.epochs=1", "train.batch_size=32", "method.data_share=0.25", "method.threshold=0.1")
    run_recipe(recipe_of("ice-published", *settings), folder)
    tunes = records(folder, "fine-tune")
    assert tunes[0]["reason"] == "probe"
    assert tunes[-1]["reason"] == "final"
    assert {tune["epochs"] for tune in tunes[:-1]} == {0.25}
    assert len(MADE) == len(tunes)
    assert MADE[0] == max(MADE) and MADE[-1] == min(MADE) and MADE[0] != MADE[-1], "of the network as it was by then"
    made = recipe_of("ice-published").method.fresh_optimizer  # type: ignore[attr-defined]
    assert (made.momentum, made.weight_decay, made.nesterov) == (0.9, 1e-4, False)


def test_every_fine_tune_learns_from_the_dense_network_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[nn.Module] = []
    loss = Teacher.loss

    def watched(self: Teacher, model: nn.Module, *arguments: Any) -> torch.Tensor:
        taught.append(model)
        return loss(self, model, *arguments)

    monkeypatch.setattr(Teacher, "loss", watched)
    folder = RunFolder(tmp_path / "run")
    settings = ("train.epochs=1", "train.distill={temperature: 2.0}", "method.threshold=0.1", "method.data_share=0.5")
    run_recipe(recipe_of("ice-published", *settings), folder)
    batches = {0.5: 3, 1.0: 7}  # of 64 out of 480 training images
    assert len(taught) == sum(batches[tune["epochs"]] for tune in records(folder, "fine-tune"))
    assert len(set(map(id, taught))) == 2, "the copy that is probed, and the network"


def test_a_share_that_holds_no_batch_is_said_before_any_training(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DataError, match="to hold a batch of 64"):
        run_recipe(recipe_of("ice-published", "method.data_share=0.01"), folder)
    assert not folder.path.exists()
