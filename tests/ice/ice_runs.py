"""Tiny runs of recipes, and what they wrote."""

from __future__ import annotations

import json
from typing import Any

from icycle.recipes import Recipe, RunFolder, load_recipe

TINY = ("train.epochs=2", "model.width=8", "data.subset=600", "data.validation=0.2", "method.round_to=1")
CLOCK = ("train", "fine-tuning", "probing", "evaluation", "recalibration", "search")


def recipe_of(method: str, *overrides: str) -> Recipe:
    """A tiny recipe: the trained digits network, half its MACs; ICE with every part of it."""
    others = (f"method.name={method}", "method.budget.macs=0.5", "method.steps=group")
    return load_recipe("digits-ice", [*(("method.freeze=0.2",) if method == "ice" else others), *TINY, *overrides])


def records(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    written = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [record for record in written if record["kind"] == kind]
