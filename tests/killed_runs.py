"""Runs and studies of small recipes that end by SIGKILL at chosen moments, and go on; the driver of test_killed.py.

    python killed_runs.py FOLDER --method ice --count 20
    python killed_runs.py FOLDER --method ice --count 20 --timed

It forks for every run, so that all is imported once, and goes on with nothing but the folder. A moment is just before
or just after one call of a watched function; with --timed it is whenever a clock says so. Printed, as JSON: for each
run the moments at which it was killed, and whether it ended as one that was not.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import icycle.artifacts._folder
import icycle.files
import icycle.methods._remove
import icycle.methods.ice._ice
import icycle.recipes._folder
import icycle.recipes._result
import icycle.recipes._run
import icycle.recipes._tune
import icycle.training._checkpoint
import icycle.training._saver
import icycle.tuning._kept
from icycle.methods import TuneSettings
from icycle.recipes import RunFolder, load_recipe, run_recipe, tune_recipe
from icycle.training import Recorder, Trainer

# what runs import on their way, and would in each process
for slow in ("optuna", "optuna.samplers", "sklearn.datasets", "torch._dynamo"):
    importlib.import_module(slow)

TINY = (
    "train.checkpoint_minutes=0.002",
    "model.width=8",
    "data.subset=300",
    "data.augment=false",
    "method.round_to=1",
)
ONE_CYCLE = (*TINY, "train.epochs=4", "method.phases.sparsity_end=0.5")
ICE = (
    *TINY,
    "train.epochs=8",
    "data.validation=0.2",
    "method.epochs=1",
    "method.threshold=1",
    "method.confidence=null",
    "method.freeze=0.4",
    "method.final_epochs=2",
)
STUDY = TuneSettings(trials=4, share=0.5, drop=40.0)

WATCHED: tuple[tuple[str, Any, str], ...] = (
    ("step", Trainer, "_train_step"),
    ("record", Recorder, "write"),
    ("removal", icycle.methods._remove, "prune"),
    ("removal", icycle.methods.ice._ice, "compensate"),
    ("removal", Trainer, "recalibrate"),
    ("checkpoint", icycle.training._checkpoint, "_write"),
    ("checkpoint", icycle.training._checkpoint.shutil, "rmtree"),
    ("checkpoint", icycle.training._checkpoint, "save_file"),
    ("checkpoint", icycle.training._checkpoint.artifacts, "save"),
    ("checkpoint", Path, "rename"),
    ("checkpoint", Path, "replace"),
    ("trial", icycle.tuning._kept, "append_line"),
    ("end", icycle.recipes._run, "measure"),
    ("end", icycle.recipes._run, "write_result"),
    ("end", icycle.recipes._run, "compare_latency"),
    ("end", icycle.recipes._run, "write_whole"),
    ("end", icycle.recipes._run, "write_page"),
    ("end", icycle.recipes._tune, "write_tuned"),
)


Moment = tuple[str, float]  # a kind, and which of them; or so many seconds
SECONDS = "seconds"


class Killer:
    """Counts the moments of each kind; at the moment `at` the process ends."""

    def __init__(self, at: Moment | None) -> None:
        if at is not None and at[0] == SECONDS:
            signal.setitimer(signal.ITIMER_REAL, at[1])  # SIGALRM ends it like SIGKILL, whatever it is doing
        self.at = at
        self.seen: Counter[str] = Counter()

    def moment(self, kind: str) -> None:
        if (kind, self.seen[kind]) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen[kind] += 1

    def watch(self, kind: str, owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def watched(*arguments: Any, **keywords: Any) -> Any:
            self.moment(kind)
            value = original(*arguments, **keywords)
            self.moment(kind)
            return value

        setattr(owner, name, watched)


@dataclass(frozen=True)
class Work:
    """What is killed: how it begins or goes on in a folder, and what of its end an interruption must not change."""

    begin: Callable[[RunFolder, bool], object]
    outcome: Callable[[RunFolder], dict[str, Any]]


def records(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{key: value for key, value in r.items() if key != "seconds"} for r in found if r["kind"] == kind]


def end_of_run(folder: RunFolder) -> dict[str, Any]:
    report = json.loads(folder.report.read_text())
    return {
        "weights": (folder.model / "model.safetensors").read_bytes().hex(),
        "records": [records(folder, kind) for kind in ("epoch", "removal", "step", "fine-tune")],
        "removals": report["removals"],
        "test": report["test_accuracy"],
        "page": folder.page.exists(),
    }


def end_of_study(folder: RunFolder) -> dict[str, Any]:
    lines = folder.path.with_suffix(".yaml").read_text().splitlines()
    return {
        "settings": [line for line in lines if not line.startswith("#")],
        "records": [records(folder, kind) for kind in ("epoch", "trial")],
    }


def begin_run(name: str, settings: Sequence[str], folder: RunFolder, resume: bool) -> None:
    recipe = folder.saved_recipe() if resume else load_recipe(name, settings)
    run_recipe(recipe, folder, resume=resume)


def begin_study(folder: RunFolder, resume: bool) -> None:
    recipe = load_recipe("digits-ice", (*ICE, "method.freeze=0.0", "method.final_epochs=1"))
    tune_recipe(recipe, STUDY, folder, folder.path.with_suffix(".yaml"), resume=resume)


WORK = {
    "one-cycle": Work(partial(begin_run, "digits", ONE_CYCLE), end_of_run),
    "ice": Work(partial(begin_run, "digits-ice", ICE), end_of_run),
    "tune": Work(begin_study, end_of_study),
}


def run(work: Work, folder: RunFolder, at: Moment | None) -> int:
    """One process: begin or go on, and end at the moment `at`; the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            killer = Killer(at)
            for watched in WATCHED:
                killer.watch(*watched)
            work.begin(folder, folder.path.exists())
            (folder.path / "moments.json").write_text(json.dumps(killer.seen))
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"a run in {folder.path} failed, which was to end at {at}")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def drawn(kind: str, moments: Mapping[str, float], draw: random.Random) -> Moment:
    last = moments[kind]
    return kind, draw.uniform(0, last) if kind == SECONDS else draw.randrange(int(last))


def main(root: Path, work: Work, seed: int, count: int, timed: bool) -> None:
    whole, began = RunFolder(root / "whole"), time.monotonic()
    run(work, whole, None)
    seconds, wanted = time.monotonic() - began, work.outcome(whole)
    moments = {SECONDS: seconds} if timed else json.loads((whole.path / "moments.json").read_text())
    draw = random.Random(seed)
    if not timed:  # how often a checkpoint is written depends on the time; all other counts are the same in every run
        moments["checkpoint"] //= 2
    for number in range(count):
        folder, killed = RunFolder(root / f"cut-{number}"), []
        at: Moment | None = drawn(sorted(moments)[number % len(moments)], moments, draw)
        while run(work, folder, at) in (signal.SIGKILL, signal.SIGALRM):
            killed.append(at)
            if folder.finished:  # it was killed once all was written
                break
            again = draw.choice(sorted(moments))  # in the part that goes on, if it comes to that
            at = drawn(again, moments, draw) if len(killed) < 3 else None
        print(json.dumps({"killed": killed, "same": work.outcome(folder) == wanted}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="takes the runs' folders")
    parser.add_argument("--method", choices=WORK, default="one-cycle", help="what is killed")
    parser.add_argument("--count", type=int, default=20, help="how many runs, each killed one to three times")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--timed", action="store_true", help="at any time")
    given = parser.parse_args()
    main(given.folder, WORK[given.method], given.seed, given.count, given.timed)
