"""Training on the stored outputs of a frozen prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ice_runs import recipe_of, records
from icycle.recipes import RunFolder, run_recipe


def run_frozen(tmp_path: Path, name: str, reuse_mib: int, *overrides: str) -> tuple[RunFolder, Any]:
    folder = RunFolder(tmp_path / name)
    settings = ("method.freeze=0.6", "method.final_epochs=3", "method.patience=null", f"method.reuse_mib={reuse_mib}")
    return folder, run_recipe(recipe_of("ice", "data.augment=false", *settings, *overrides), folder)


def test_results_are_equal_with_and_without_reuse(tmp_path: Path) -> None:
    (stored, one), (plain, other) = (run_frozen(tmp_path, f"run{size}", size) for size in (64, 0))
    replayed = [record["replayed"] for record in records(stored, "fine-tune")]
    assert replayed[-3:] == [True, True, True]
    assert not any(replayed[:-3])  # what is wanted for one epoch is not worth storing
    assert not any(record["replayed"] for record in records(plain, "fine-tune"))
    assert one.validation_accuracy == other.validation_accuracy
    assert one.test_accuracy == other.test_accuracy
    losses = [[record["loss"] for record in records(folder, "fine-tune")] for folder in (stored, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("override", ["data.augment=true", "method.reuse_mib=0"])
def test_outputs_are_not_stored_where_inputs_change_or_memory_is_short(tmp_path: Path, override: str) -> None:
    folder, _ = run_frozen(tmp_path, "run", 64, "train.epochs=1", override)
    assert not any(record["replayed"] for record in records(folder, "fine-tune"))
