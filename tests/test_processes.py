"""Several processes, started as a user starts them: one folder, one voice, the network that one process makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed
from torch.utils.data import TensorDataset

from cut_runs import at, interrupt
from icycle.errors import TrainingError
from icycle.recipes import RunFolder, load_recipe, run_recipe
from icycle.training import rows_of
from icycle.zoo import Augmentation, DatasetLoader, Examples, Images, TensorLoader
from run_methods import METHODS, NETWORK, run_methods, settings_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_available(), reason="torch is built without distributed"),
]

DRIVER = str(Path(__file__).with_name("run_methods.py"))
ICYCLE = ("-m", "icycle")
NEARLY = 5e-4  # sums in another order, over a few dozen steps; what least squares make of that


@pytest.fixture(autouse=True)
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The network's module, for this process and those that it starts."""
    (tmp_path / "plain_net.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("plain_net", None)


NOT_TOLD = "--num-machines 1 --mixed-precision no --dynamo-backend no"  # the defaults, of which it would tell
LAUNCHERS = {
    "torchrun": "torch.distributed.run --standalone --nproc-per-node",
    "accelerate": f"accelerate.commands.launch {NOT_TOLD} --num-processes",
}


def command(count: int, *program: str, launcher: str = "torchrun") -> list[str]:
    return [sys.executable, "-m", *LAUNCHERS[launcher].split(), str(count), *program]


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def launch(count: int, *program: str, folder: Path, launcher: str = "torchrun") -> subprocess.CompletedProcess[str]:
    """All of them, in `folder`; what hangs fails."""
    options: dict[str, Any] = {"cwd": folder, "env": environment(folder), "capture_output": True, "text": True}
    return subprocess.run(command(count, *program, launcher=launcher), **options, check=False, timeout=100)


def flags(*settings: str) -> list[str]:
    return [part for value in settings for part in ("--set", value)]


def records(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [record for record in lines if record["kind"] == kind]


def assert_same(one: RunFolder, other: RunFolder) -> None:
    """The same channels went, at the same steps; all else differs by rounding."""
    weights = [load_file(folder.model / "model.safetensors") for folder in (one, other)]
    assert {name: tensor.shape for name, tensor in weights[0].items()} == {
        name: tensor.shape for name, tensor in weights[1].items()
    }
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < NEARLY
    for kind, keys in {"removal": ("epoch", "macs_after"), "epoch": ("epoch", "validation_accuracy")}.items():
        found = [[[record[key] for key in keys] for record in records(folder, kind)] for folder in (one, other)]
        assert found[0] == found[1]
    losses = [[record["loss"] for record in records(folder, "epoch")] for folder in (one, other)]
    assert losses[0] == pytest.approx(losses[1], abs=NEARLY)
    reports = [json.loads(folder.report.read_text()) for folder in (one, other)]
    one_image = 100 / 359  # of a network that has hardly learned, rounding may decide one
    assert reports[0]["test_accuracy"] == pytest.approx(reports[1]["test_accuracy"], abs=one_image + 1e-6)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_command_leaves_one_folder_and_prints_once(launcher: str, tmp_path: Path) -> None:
    settings = ("train.epochs=3", "model.width=8", "data.subset=240", "method.round_to=1", "train.precision=bf16")
    done = launch(2, *ICYCLE, "run", "digits", *flags(*settings), folder=tmp_path, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits-1"]
    folder = RunFolder(tmp_path / "runs" / "digits-1")
    assert folder.finished
    assert [record["epoch"] for record in records(folder, "epoch")] == [1, 2, 3]
    assert len(records(folder, "removal")) == 1
    assert sum(line.startswith("epoch") for line in done.stdout.splitlines()) == 3
    assert done.stdout.count("Everything is in") == 1
    assert "arning" not in done.stderr


def test_every_method_makes_the_network_that_one_process_makes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run_methods(one, *METHODS)
    done = launch(2, DRIVER, str(two), *METHODS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for method in METHODS:
        assert_same(RunFolder(one / method), RunFolder(two / method))


def test_four_processes_do_as_well(tmp_path: Path) -> None:
    one, four = tmp_path / "one", tmp_path / "four"
    run_methods(one, "one-cycle")
    done = launch(4, DRIVER, str(four), "one-cycle", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(RunFolder(one / "one-cycle"), RunFolder(four / "one-cycle"))


def test_a_run_goes_on_in_another_number_of_processes(tmp_path: Path) -> None:
    """One begins, two go on and are asked to stop, one goes on."""
    recipe = load_recipe("digits", [*settings_of("fixed", tmp_path), "train.epochs=40", "method.at=0.5"])
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    run_recipe(recipe, whole)

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, cut, listeners=[at("epoch", 2, interrupt)])
    with subprocess.Popen(
        command(2, *ICYCLE, "run", "--resume", "cut"),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as two:
        assert two.stdout is not None
        first = next(line for line in two.stdout if line.startswith("epoch"))
        two.send_signal(signal.SIGTERM)
        shown = two.stdout.read()
    assert first.startswith(("epoch   2/40", "epoch   3/40"))
    assert shown.count("Stopped by SIGTERM; all is saved") == 1
    assert not cut.report.exists()
    run_recipe(recipe, cut, resume=True)
    assert_same(whole, cut)


def test_steps_go_on_in_another_number_of_processes(tmp_path: Path) -> None:
    """One begins, two go on."""
    recipe = load_recipe("digits", [*settings_of("ice", tmp_path), "method.compensate=false"])  # each step by itself
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    run_recipe(recipe, whole)

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, cut, listeners=[at("step", 2, interrupt)])
    done = launch(2, *ICYCLE, "run", "--resume", "cut", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(whole, cut)
    steps = [[(r["number"], r["kept"], r["decision"]["fire"]) for r in records(run, "step")] for run in (whole, cut)]
    assert len(steps[0]) == 2
    assert steps[0] == steps[1]


BROKEN = """
import os
import plain_net
from torch import nn
from icycle.errors import DataError


class Broken(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net = plain_net.build(num_classes)

    def forward(self, x):
        if self.training and os.environ["RANK"] == "1":
            raise DataError("rank 1 gives up")
        return self.net(x)
"""


def test_an_error_in_one_process_ends_all_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "broken_net.py").write_text(BROKEN)
    settings = [*settings_of("dense", tmp_path), "model.name=broken_net:Broken"]
    began = time.monotonic()
    done = launch(2, *ICYCLE, "run", "digits", *flags(*settings), folder=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "error: rank 1 gives up" in done.stderr
    assert time.monotonic() - began < 60
    assert not (tmp_path / "runs").exists()  # nothing had been done


def test_a_batch_that_cannot_be_divided_is_refused_in_one_line(tmp_path: Path) -> None:
    done = launch(2, *ICYCLE, "run", "digits", "--set", "train.batch_size=41", folder=tmp_path)
    assert done.stderr.count("error: ") == 1
    assert "set it to 40 or 42" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [0, 1, 3, 8, 41])
def test_the_processes_rows_are_the_batch(size: int, count: int, even: bool) -> None:
    rows = [range(size)[rows_of(size, rank, count, even=even)] for rank in range(count)]
    together = [row for part in rows for row in part]
    assert together == list(range(size - size % count if even else size))
    assert max(map(len, rows)) - min(map(len, rows)) <= (0 if even else 1)


def in_memory() -> TensorLoader:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (250, 1, 6, 6), dtype=torch.uint8, generator=generator)
    images, augmentation = Images(pixels, torch.arange(250) % 7), Augmentation(crop=1, flip=True)
    zero, one = torch.zeros(1), torch.ones(1)
    return TensorLoader(images, 40, mean=zero, std=one, shuffle=True, augmentation=augmentation, seed=3)


def read_one_by_one() -> DatasetLoader:
    """Each example with something drawn by chance."""
    examples = Examples(TensorDataset(torch.arange(250.0), torch.arange(250)))
    return DatasetLoader(examples, 40, transform=lambda e: (e[0] + torch.rand(()), e[1]), seed=3)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("make", [in_memory, read_one_by_one])
def test_a_part_is_cut_from_the_batches_of_one_process(make: Callable[[], Any], even: bool) -> None:
    """Augmentation included, whatever of a batch is read."""
    loader = make()
    loader.set_epoch(3)
    whole = list(loader)
    for rank in range(3):
        part = loader.part(rank, 3, even=even)
        part.set_epoch(3)
        assert len(part) == len(loader)
        for (images, labels), (own_images, own_labels) in zip(whole, part, strict=True):
            rows = rows_of(len(labels), rank, 3, even=even)
            assert torch.equal(images[rows], own_images)
            assert torch.equal(labels[rows], own_labels)


def test_tuning_is_for_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from icycle.methods import TuneSettings
    from icycle.recipes import tune_recipe

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="one process for tuning"):
        tune_recipe(load_recipe("digits-ice"), TuneSettings(), RunFolder(tmp_path / "study"), tmp_path / "tuned.yaml")
    assert not (tmp_path / "study").exists()
