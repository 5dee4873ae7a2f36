"""Training: the loop against a hand-written one, schedules against torch's, statistics against brute force."""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from icycle.engine import trace
from icycle.errors import DataError, RunInterruptedError, TrainingError
from icycle.registry import did_you_mean
from icycle.structure import SubNetwork
from icycle.surgery import prune
from icycle.training import (
    SGD,
    AdamW,
    Classification,
    Constant,
    Cosine,
    Hooks,
    MultiStep,
    Recorder,
    StageClock,
    Trainer,
    TrainSettings,
    evaluate,
    logits_of,
    recalibrate,
    stoppable,
)

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6, 3),
    )


def batches(count: int = 4, size: int = 8, seed: int = 1) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 1, 8, 8, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"epochs": 3, "batch_size": 8, **changes})


def parameters(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


def assert_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert len(first) == len(second)
    for left, right in zip(first, second, strict=True):
        assert torch.equal(left, right)


# Schedules


@given(st.floats(0, 1), st.floats(0, 0.9))
def test_factors_lie_between_nothing_and_the_base_rate(progress: float, warmup: float) -> None:
    for schedule in (Cosine(warmup=warmup), MultiStep(warmup=warmup), Constant(warmup=warmup)):
        assert 0 <= schedule.factor(progress) <= 1


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.9))
def test_after_the_warm_up_no_schedule_rises(first: float, second: float, warmup: float) -> None:
    early, late = sorted((max(first, warmup), max(second, warmup)))
    for schedule in (Cosine(warmup=warmup), MultiStep(warmup=warmup), Constant(warmup=warmup)):
        assert schedule.factor(late) <= schedule.factor(early)


@pytest.mark.parametrize("step", [0, 3, 10, 19])
def test_cosine_agrees_with_torch(step: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    for _ in range(step):
        optimizer.step()
        oracle.step()
    assert Cosine(final=0.1).factor(step / 20) == pytest.approx(oracle.get_last_lr()[0])


def test_multi_step_multiplies_at_its_milestones() -> None:
    schedule = MultiStep(milestones=(0.25, 0.5), gamma=0.1)
    assert [schedule.factor(progress) for progress in (0.2, 0.25, 0.49, 0.5)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_warm_up_rises_in_a_straight_line() -> None:
    schedule = Constant(warmup=0.4)
    assert [schedule.factor(progress) for progress in (0.0, 0.1, 0.2, 0.4)] == pytest.approx([0, 0.25, 0.5, 1])


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
    assert_equal(parameters(trained), parameters(by_hand))


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


class Calls:
    """Hooks that write down when they were called."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def start_epoch(self, epoch: int) -> None:
        self.log.append(f"epoch {epoch}")

    def after_step(self) -> None:
        self.log.append("step")


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
    monkeypatch.setattr("icycle.training._clock.time.perf_counter", lambda: now[0])
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


# Checkpoints


class StopError(Exception):
    """The process ends here."""


class PruneAndStop(Calls):
    """Removes half of every group before epoch 1, and stops before epoch `stop`; remembers that it has removed."""

    def __init__(self, trainer: Trainer, stop: int) -> None:
        super().__init__()
        self.trainer = trainer
        self.stop = stop
        self.removed = torch.zeros(1)

    def start_epoch(self, epoch: int) -> None:
        if epoch == self.stop:
            raise StopError
        if epoch == 1:
            structure = trace(self.trainer.model, torch.zeros(1, 1, 8, 8))
            prune(self.trainer.model, structure, SubNetwork.random(structure, 0.5, 0), self.trainer.optimizer)
            self.trainer.lay_out()
            self.removed += 1

    def state_dict(self) -> dict[str, object]:
        return {"removed": self.removed, "stop": self.stop}

    def load_state_dict(self, state: dict[str, object]) -> None:
        assert isinstance(state["removed"], torch.Tensor)
        self.removed = state["removed"]


@pytest.mark.parametrize("optimizer", [SGD(learning_rate=0.05), AdamW()])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_ends_like_one_that_was_never_cut(tmp_path: Path, optimizer: SGD | AdamW, stop: int) -> None:
    data = batches()
    chosen = settings(epochs=4, optimizer=optimizer)

    def run(model: nn.Module, stop: int, checkpoint: Path | None) -> PruneAndStop:
        trainer = Trainer(model, chosen, len(data))
        hooks = PruneAndStop(trainer, stop)
        trainer.fit(data, data, hooks=hooks, checkpoint=checkpoint)
        return hooks

    whole = network()
    torch.manual_seed(7)
    run(whole, 99, None)

    folder = tmp_path / "checkpoint"
    cut = network()
    torch.manual_seed(7)
    with pytest.raises(StopError):
        run(cut, stop, folder)
    resumed = network()
    torch.manual_seed(123)  # another process
    hooks = run(resumed, 99, folder)
    assert hooks.removed.item() == 1
    assert_equal(parameters(resumed), parameters(whole))


def test_where_all_checkpoints_are_damaged_that_is_said(tmp_path: Path) -> None:
    data, folder = batches(), tmp_path / "checkpoint"
    Trainer(network(), settings(epochs=2), len(data)).fit(data, data, checkpoint=folder)
    for state in folder.rglob("state.safetensors"):
        state.write_bytes(b"no tensors")
    with pytest.raises(TrainingError, match="damaged"):
        Trainer(network(), settings(), len(data)).fit(data, data, checkpoint=folder)


def test_a_checkpoint_of_the_first_version_is_refused_in_words(tmp_path: Path) -> None:
    data, folder = batches(), tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "state.safetensors").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"got version 1,.* start the run anew in another folder"):
        Trainer(network(), settings(), len(data)).fit(data, data, checkpoint=folder)


@pytest.mark.parametrize("file", ["state.safetensors", "model/model.safetensors", "checksums.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, file: str) -> None:
    data, folder = batches(), tmp_path / "checkpoint"
    whole = Trainer(network(), settings(epochs=3), len(data))
    whole.fit(data, data, checkpoint=folder)
    last, _ = sorted(folder.iterdir(), reverse=True)
    content = bytearray((last / file).read_bytes())
    content[-5] ^= 1  # one bit
    (last / file).write_bytes(content)
    resumed = Trainer(network(), settings(epochs=3), len(data))
    resumed.fit(data, data, checkpoint=folder)
    assert [record["kind"] for record in resumed.recorder.records] == ["damaged-checkpoint", "epoch"]
    assert resumed.recorder.records[0]["path"] == str(last)
    assert_equal(parameters(resumed.model), parameters(whole.model))


def test_a_checkpoint_that_cannot_be_written_leaves_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = batches(), tmp_path / "checkpoint"
    Trainer(network(), settings(epochs=1), len(data)).fit(data, data, checkpoint=folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("icycle.training._checkpoint.save_file", full)
    with pytest.raises(TrainingError, match="No space left"):
        Trainer(network(), settings(epochs=2), len(data)).fit(data, data, checkpoint=folder)
    monkeypatch.undo()
    assert len(list(folder.iterdir())) == 1
    resumed = Trainer(network(), settings(epochs=2), len(data))
    resumed.fit(data, data, checkpoint=folder)
    assert [record["epoch"] for record in resumed.recorder.records] == [2]


class Signal(Calls):
    """Asks the process to stop after a step."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__()
        self.step, self.number = step, number

    def after_step(self) -> None:
        self.step -= 1
        if self.step == 0:
            os.kill(os.getpid(), self.number)


class Shuffled:
    """A loader that draws its order from the global random state, as torch's own does."""

    def __init__(self) -> None:
        self.batches = batches()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from (self.batches[position] for position in torch.randperm(len(self.batches)).tolist())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_signal_saves_after_the_step_and_the_run_goes_on_there(tmp_path: Path, step: int, number: int) -> None:
    train, data = Shuffled(), batches()

    def run(seed: int, hooks: Hooks | None) -> Trainer:
        trainer = Trainer(network(), settings(epochs=3), len(data))
        torch.manual_seed(seed)
        with stoppable():
            trainer.fit(train, data, hooks=hooks, checkpoint=tmp_path / "checkpoint" if hooks else None)
        return trainer

    whole = run(7, None)
    with pytest.raises(RunInterruptedError, match=signal.Signals(number).name):
        run(7, Signal(step, number))
    resumed = run(123, Calls())  # another process
    assert_equal(parameters(resumed.model), parameters(whole.model))
    ends = [[(record["epoch"], record["loss"]) for record in each.recorder.records] for each in (whole, resumed)]
    assert ends[1] == ends[0][-len(ends[1]) :]
    assert resumed.step == whole.step


# Evaluation and recalibration


def test_accuracy_is_the_share_of_right_answers_in_evaluation_mode() -> None:
    model, data = network().train(), batches(count=3, size=5)
    accuracy = evaluate(model, data)
    assert all(module.training for module in model.modules())
    model.eval()
    right = sum(int((model(inputs).argmax(1) == labels).sum()) for inputs, labels in data)
    assert accuracy == pytest.approx(100 * right / 15)


def test_an_empty_loader_is_an_error() -> None:
    with pytest.raises(DataError, match="split"):
        evaluate(network(), [])
    model = network()
    before = parameters(model)
    with pytest.raises(DataError, match="recalibrate"):
        recalibrate(model, [])
    assert_equal(parameters(model), before)


class Wrapped(nn.Module):
    def __init__(self, wrap: object) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: torch.Tensor) -> object:
        return self.wrap(x)  # type: ignore[operator]


class WithLogits:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x, x[:0]),
        lambda x: [x],
        lambda x: {"aux": x[:0], "logits": x},
        lambda x: {"aux": x[:0], "out": x},
        lambda x: {"scores": x},
        WithLogits,
        lambda x: (WithLogits(x),),
    ],
)
def test_logits_are_found_in_what_models_return(wrap: object) -> None:
    x = torch.randn(2, 3)
    assert torch.equal(logits_of(Wrapped(wrap)(x)), x)


@pytest.mark.parametrize("output", [None, (), {}, "text", 3])
def test_an_output_without_logits_is_an_error(output: object) -> None:
    with pytest.raises(TrainingError, match="logits"):
        logits_of(output)


def test_recalibration_gives_each_batch_the_same_weight() -> None:
    data = batches(count=5)
    model = network().train()
    model[1].running_mean.fill_(99.0)
    recalibrate(model, data, batches=3)
    means = torch.stack([model[0](inputs).mean(dim=(0, 2, 3)) for inputs, _ in data[:3]])
    variances = torch.stack([model[0](inputs).var(dim=(0, 2, 3)) for inputs, _ in data[:3]])
    assert torch.allclose(model[1].running_mean, means.mean(dim=0), atol=1e-6)
    assert torch.allclose(model[1].running_var, variances.mean(dim=0), atol=1e-6)
    assert model[1].momentum == 0.1
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("fault", ["nan input", "infinite input", "nan weight", "interrupt"])
def test_statistics_are_as_they_were_where_recalibration_fails(fault: str) -> None:
    data = batches(count=3)
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    if fault == "interrupt":

        def stop(*_: object) -> None:
            if model[1].num_batches_tracked == 2:
                raise KeyboardInterrupt

        model[1].register_forward_hook(stop)
    elif fault == "nan weight":
        model[0].weight.data[0, 0] = math.nan
    else:
        data[2][0][0, 0] = math.nan if fault == "nan input" else math.inf
    with pytest.raises(KeyboardInterrupt if fault == "interrupt" else (DataError, TrainingError)):
        recalibrate(model, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
    assert model[1].momentum == 0.1
    assert all(module.training for module in model.modules())


def test_a_model_without_batch_norm_reads_no_data() -> None:
    def unreadable() -> Batches:
        raise AssertionError("the data was read")

    class Unreadable:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> object:
            return unreadable()

    recalibrate(nn.Linear(2, 2), Unreadable())  # type: ignore[arg-type]


def test_the_nearest_name_is_suggested() -> None:
    assert did_you_mean("cosin", ["cosine", "constant"]) == "did you mean 'cosine'?"
    assert did_you_mean("zzz", ["b", "a"]) == "known are: a, b"
