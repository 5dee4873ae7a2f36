"""The training loop: against a hand-written one, and where it breaks down."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from icycle.errors import TrainingError
from icycle.training import SGD, AdamW, Classification, Recorder, StageClock, Trainer
from small_training import Calls, assert_equal, batches, network, settings, tensors

# The loop


@pytest.mark.parametrize("optimizer", [SGD(learning_rate=0.05, nesterov=True), AdamW(learning_rate=0.01)])
def test_the_loop_does_what_a_plain_loop_does(optimizer: SGD | AdamW) -> None:
    data = batches()
    chosen = settings(optimizer=optimizer, clip_norm=1.0, channels_last=False)
    trained = network()
    torch.manual_seed(5)
    Trainer(trained, chosen, len(data), task=Classification(label_smoothing=0.1)).fit(data, data)

    by_hand = network()
    plain = optimizer.build(by_hand.parameters())
    torch.manual_seed(5)
    by_hand.train()
    for step in range(12):
        inputs, labels = data[step % 4]
        for group in plain.param_groups:
            group["lr"] = optimizer.learning_rate * (1 + math.cos(math.pi * (step + 0.5) / 12)) / 2
        cross_entropy(by_hand(inputs), labels, label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        plain.step()
        plain.zero_grad()
    assert_equal(tensors(trained), tensors(by_hand))


def test_training_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (64,), generator=generator)
    inputs = torch.randn(64, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1)
    data = list(zip(inputs.split(16), labels.split(16), strict=True))
    accuracy = Trainer(network(), settings(epochs=15, optimizer=SGD(learning_rate=0.2)), 4).fit(data, data)
    assert accuracy > 80


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_one_process_may_train_in_several_precisions(precision: str) -> None:
    data = batches()
    trainer = Trainer(network(), settings(epochs=1, precision=precision), len(data))
    trainer.fit(data, data)
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device computes in fp16")
def test_a_precision_that_the_device_lacks_is_an_error() -> None:
    with pytest.raises(TrainingError, match="fp16"):
        Trainer(network(), settings(precision="fp16"), 1)


def test_no_batch_per_epoch_is_an_error() -> None:
    with pytest.raises(TrainingError, match="batch_size"):
        Trainer(network(), settings(), 0)


def test_hooks_are_called_before_each_epoch_and_after_each_step() -> None:
    data, calls = batches(count=2), Calls()
    Trainer(network(), settings(epochs=2), 2).fit(data, data, hooks=calls)
    assert calls.log == ["epoch 0", "step", "step", "epoch 1", "step", "step"]


def test_every_epoch_is_recorded_with_its_seconds(tmp_path: Path) -> None:
    data, recorder = batches(), Recorder(tmp_path / "metrics.jsonl")
    Trainer(network(), settings(), len(data), recorder).fit(data, data)
    assert [record["epoch"] for record in recorder.records] == [1, 2, 3]
    assert all(record["seconds"]["train"] > 0 and record["seconds"]["evaluation"] > 0 for record in recorder.records)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_seconds_by_stage_add_up_to_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(StageClock, "now", staticmethod(lambda: now[0]))
    clock = StageClock()
    now[0] = 1.0
    with clock.stage("train"):
        now[0] = 3.0
        with clock.stage("search"):
            now[0] = 3.5
        now[0] = 4.0
    now[0] = 10.0
    assert clock.seconds() == {"train": 2.5, "search": 0.5, "evaluation": 0.0, "recalibration": 0.0, "rest": 7.0}


# What goes wrong


def test_a_non_finite_loss_stops_before_the_weights_are_spoilt() -> None:
    data = batches()
    data[2] = (torch.full((8, 1, 8, 8), math.nan), data[2][1])
    model = network()
    with pytest.raises(TrainingError, match=r"finite loss.* epoch 1 of 3, after 2 steps.*learning_rate"):
        Trainer(model, settings(channels_last=False), len(data)).fit(data, data)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


class SpoilWeights(Calls):
    """Makes one weight infinite in the second epoch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def start_epoch(self, epoch: int) -> None:
        if epoch == 1:
            next(iter(self.model.parameters())).data.view(-1)[0] = math.inf


def test_the_last_good_epoch_survives_in_the_checkpoint(tmp_path: Path) -> None:
    data, model = batches(), network()
    folder = tmp_path / "checkpoint"
    with pytest.raises(TrainingError, match=re.escape(str(folder))):
        Trainer(model, settings(), len(data)).fit(data, data, hooks=SpoilWeights(model), checkpoint=folder)
    resumed = network()
    Trainer(resumed, settings(), len(data)).fit(data, data, checkpoint=folder)
    assert all(torch.isfinite(parameter).all() for parameter in resumed.parameters())
