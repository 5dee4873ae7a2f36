"""Runs of a small recipe that end by SIGKILL at chosen moments, and go on; the driver of test_killed.py.

    python killed_runs.py FOLDER SEED COUNT

It forks for every run, so that torch is imported once. A moment is just before or just after one call of a watched
function. Printed, as JSON: for each run the moments at which it was killed, and whether it ended as one that was not.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import icycle.artifacts._folder
import icycle.files
import icycle.methods._remove
import icycle.recipes._folder
import icycle.recipes._result
import icycle.recipes._run
import icycle.training._checkpoint
from icycle.recipes import RunFolder, load_recipe, run_recipe
from icycle.training import Recorder, Trainer

SETTINGS = (
    "train.epochs=4",
    "train.checkpoint_minutes=0.002",
    "model.width=8",
    "data.subset=300",
    "method.round_to=1",
    "method.phases.sparsity_end=0.5",
)
WATCHED: tuple[tuple[str, Any, str], ...] = (
    ("step", Trainer, "_train_step"),
    ("record", Recorder, "write"),
    ("removal", icycle.methods._remove, "prune"),
    ("removal", Trainer, "recalibrate"),
    ("checkpoint", icycle.training._checkpoint, "_write"),
    ("checkpoint", icycle.training._checkpoint.shutil, "rmtree"),
    ("checkpoint", icycle.training._checkpoint, "save_file"),
    ("checkpoint", icycle.training._checkpoint.artifacts, "save"),
    ("checkpoint", Path, "rename"),
    ("checkpoint", Path, "replace"),
    ("end", icycle.recipes._run, "measure"),
    ("end", icycle.recipes._run, "write_result"),
    ("end", icycle.recipes._run, "compare_latency"),
    ("end", icycle.recipes._run, "write_whole"),
    ("end", icycle.recipes._run, "write_page"),
)


class Killer:
    """Counts the moments of each kind; at the moment `at`, (kind, number), the process ends."""

    def __init__(self, at: tuple[str, int] | None) -> None:
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


def run(folder: RunFolder, at: tuple[str, int] | None) -> int:
    """One process: begin or go on, and end at the moment `at`; the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            killer = Killer(at)
            for watched in WATCHED:
                killer.watch(*watched)
            recipe = load_recipe("digits", SETTINGS)
            run_recipe(recipe, folder, resume=folder.path.exists())
            (folder.path / "moments.json").write_text(json.dumps(killer.seen))
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"a run in {folder.path} failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def outcome(folder: RunFolder) -> dict[str, Any]:
    """All that an interruption must not change."""
    report = json.loads(folder.report.read_text())
    epochs = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return {
        "weights": (folder.model / "model.safetensors").read_bytes().hex(),
        "epochs": [[r["epoch"], r["loss"], r["validation_accuracy"]] for r in epochs if r["kind"] == "epoch"],
        "removals": report["removals"],
        "test": report["test_accuracy"],
        "page": folder.page.exists(),
    }


def main(root: Path, seed: int, count: int) -> None:
    whole = RunFolder(root / "whole")
    run(whole, None)
    moments, wanted = json.loads((whole.path / "moments.json").read_text()), outcome(whole)
    draw = random.Random(seed)
    # how often a checkpoint is written depends on the time; all other counts are the same in every run
    moments["checkpoint"] //= 2
    for number in range(count):
        folder, killed = RunFolder(root / f"cut-{number}"), []
        kind = sorted(moments)[number % len(moments)]
        at = (kind, draw.randrange(moments[kind]))
        while run(folder, at) == signal.SIGKILL:
            killed.append(at)
            again = draw.choice(sorted(moments))  # in the part that goes on, if it comes to that
            at = (again, draw.randrange(moments[again])) if len(killed) < 3 else None
        print(json.dumps({"killed": killed, "same": outcome(folder) == wanted}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
