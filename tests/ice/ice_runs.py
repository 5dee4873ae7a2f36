"""Tiny runs of recipes, and what they wrote."""

from __future__ import annotations

import json
from typing import Any

from icycle.recipes import Recipe, RunFolder, load_recipe

TINY = ("train.epochs=2", "model.width=8", "data.subset=600", "data.validation=0.2", "method.round_to=1")
CLOCK = ("train", "fine-tuning", "probing", "evaluation", "recalibration", "search")


def recipe_of(method: str, *overrides: str) -> Recipe:
    """A tiny recipe: the trained digits network, half its MACs, a group after the other; ICE with every part of it."""
    parts = ("freeze=0.2", "epochs=1", "final_epochs=3", "drop=null", "patience=2")
    ice = tuple(f"method.{part}" for part in parts)
    own = ice if method == "ice" else (f"method.name={method}", "method.budget.macs=0.5")
    return load_recipe("digits-ice", [*own, "method.steps=group", *TINY, *overrides])


def records(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    written = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [record for record in written if record["kind"] == kind]
