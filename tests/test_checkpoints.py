"""Checkpoints of the training loop: what was cut off, damaged or asked to stop ends as what was not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from icycle.engine import trace
from icycle.errors import RunInterruptedError, TrainingError
from icycle.structure import SubNetwork
from icycle.surgery import prune
from icycle.training import SGD, AdamW, Hooks, Trainer, stoppable
from small_training import Calls, assert_equal, batches, network, settings, tensors


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
    assert_equal(tensors(resumed), tensors(whole))


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
    assert_equal(tensors(resumed.model), tensors(whole.model))


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
    assert_equal(tensors(resumed.model), tensors(whole.model))
    ends = [[(record["epoch"], record["loss"]) for record in each.recorder.records] for each in (whole, resumed)]
    assert ends[1] == ends[0][-len(ends[1]) :]
    assert resumed.step == whole.step
