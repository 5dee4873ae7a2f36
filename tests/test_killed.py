"""A run or a study that is killed at any moment goes on to the same end, to the bit (on the CPU).

Twenty moments of each: python tests/killed_runs.py FOLDER --method ice --count 20
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("killed_runs.py")
RUNS = {"one-cycle": 5, "ice": 5, "tune": 6}  # one for each kind of moment


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the driver forks")
@pytest.mark.parametrize("method", RUNS)
def test_what_was_killed_ends_as_if_it_had_not_been(method: str, tmp_path: Path) -> None:
    command = [sys.executable, str(DRIVER), str(tmp_path), "--method", method, "--count", str(RUNS[method])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) == RUNS[method]
    assert all(run["killed"] for run in runs)
    assert [run for run in runs if not run["same"]] == []
