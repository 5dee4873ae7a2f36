"""A run that is killed at any moment goes on to the same weights, to the bit (on the CPU)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("killed_runs.py")
RUNS = int(os.environ.get("ICYCLE_KILLED_RUNS", "5"))  # in CI one for each kind of moment


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the driver forks")
def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    command = [sys.executable, str(DRIVER), str(tmp_path), "0", str(RUNS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) == RUNS
    assert all(run["killed"] for run in runs)
    assert [run for run in runs if not run["same"]] == []
