"""Folders of finished runs, made without a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["DENSE_EPOCH", "PRUNED_EPOCH", "make_run"]

DENSE_EPOCH, PRUNED_EPOCH = 2.0, 1.0  # seconds


def make_run(
    folder: Path,
    method: str = "one-cycle",
    *,
    accuracy: float = 98.5,
    seed: int = 0,
    steps: bool = False,
    groups: int = 9,
    budget: float = 0.5,
    latency: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """The folder of a run with everything that a page shows; `steps` makes it one of a method that prunes in steps;
    `settings` change those of the recipe's sections."""
    folder.mkdir(parents=True)
    names = [f"layers.{number}.conv" for number in range(groups)]
    removal = {"epoch": 2.0, "macs_before": 1000, "macs_after": 500, "macs_kept": 0.5}
    removal |= {"accuracy_before": 90, "accuracy_after": 89}
    report = {
        "recipe": "digits",
        "method": method,
        "dense": _network(1.0),
        "pruned": _network(1.0 if method == "dense" else budget),
        "removals": [] if method == "dense" else [removal],
        "validation_accuracy": 98.0,
        "test_accuracy": accuracy,
        "metric": "accuracy",
        "seconds": {"train": 100.0 + seed, "search": 2.5, "rest": 0.0},
        "environment": {"device": "cpu", "torch": "2"},
        "details": {"why the removal came": "stable", "share": 0.123456, "curve": [[0, 1]]},
        "seed": seed,
        "criterion": "group_norm",
        "asked_latency": _asked_latency() if latency else None,
        "settings": _settings(method, seed, budget, settings or {}),
        "groups": [
            {"name": name, "size": 64, "kept": 30 + place % 30, "members": [f"{name}.weight", f"{name}.bias"]}
            for place, name in enumerate(names)
        ],
    }
    (folder / "report.json").write_text(json.dumps(report))
    records = [*_epochs(), *(_steps(names) if steps else [*_searches(), _saliency(names)])]
    if latency:
        tried = [
            {"predicted": 6.0, "measured": 7.0, "allowed": 5.0},
            {"predicted": 5.0, "measured": 5.1, "allowed": 5.0},
        ]
        records.append({"kind": "latency", "attempts": tried})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "<script>alert(1)</script>"}))
    return folder


def _network(scale: float) -> dict[str, Any]:
    latency = {"median": 10 * scale, "lower": 9.9 * scale, "upper": 10.1 * scale, "runs": 40}
    costs = {name: int(1e6 * scale) for name in ("macs", "params", "file_bytes")}
    return {**costs, "latency": {"1": latency, "64": {**latency, "lower": 1.0}}}


def _asked_latency() -> dict[str, Any]:
    dense, pruned = ({"median": ms, "lower": ms - 0.1, "upper": ms + 0.1, "runs": 40} for ms in (10.2, 5.1))
    return {"target": "onnxruntime", "batch": 16, "dense": dense, "pruned": pruned}


def _settings(method: str, seed: int, budget: float, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    phases = {"sparsity_end": 0.75, "threshold": 0.95, "plateau": 0.8}
    settings: dict[str, Any] = {
        "name": "digits",
        "seed": seed,
        "data": {"name": "digits"},
        "model": {"name": "small-cnn"},
        "train": {"epochs": 4},
        "method": {"name": method, "threshold": 1.0, "budget": {"macs": budget}, "phases": phases},
    }
    return settings | {section: settings.get(section, {}) | {**own} for section, own in changes.items()}


def _epochs() -> list[dict[str, Any]]:
    def took(epoch: int) -> dict[str, float]:
        return {"train": (DENSE_EPOCH if epoch <= 2 else PRUNED_EPOCH) - 0.25, "evaluation": 0.25, "search": 9.0}

    return [
        {
            "kind": "epoch",
            "epoch": epoch,
            "epochs": 4,
            "loss": 1 / epoch,
            "validation_accuracy": 84.0 + 3 * epoch,
            "seconds": took(epoch),
        }
        for epoch in range(1, 5)
    ]


def _searches() -> list[dict[str, Any]]:
    values = [None, *(0.99 - 0.6 * math.exp(-number / 4) for number in range(15))]
    return [{"kind": "search", "epoch": number / 8, "indicator": value} for number, value in enumerate(values)]


def _saliency(names: list[str]) -> dict[str, Any]:
    scores = [0.2 * 1.12**number for number in range(32)]
    cut = 12
    groups = [{"name": name, "size": 64, "left": 40, "removed": scores[:cut], "kept": scores[cut:]} for name in names]
    return {"kind": "saliency", "criterion": "group_norm", "groups": groups}


def _steps(names: list[str]) -> list[dict[str, Any]]:
    records = []
    for number, name in enumerate(names, start=1):
        decision = {"fire": number % 3 == 0, "accuracy": 90.0 - number % 3, "drop": number % 3, "share": 0.5}
        if decision["fire"]:
            decision["ahead"] = 30.0
        if number == 4:  # nothing was read
            decision = {"fire": False, "accuracy": None, "drop": None, "share": 0.0}
        records.append(_saliency([name]))
        records.append(
            {
                "kind": "step",
                "number": number,
                "kept": {name: 30},
                "macs_kept": 1 - 0.05 * number,
                "decision": decision,
                "fine_tuned": 1.0 if number % 3 == 0 else 0.0,
                "seconds": {"search": 0.2, "evaluation": 0.4, **({"fine-tuning": 2.0} if number % 3 == 0 else {})},
            }
        )
    return records
