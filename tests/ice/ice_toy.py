"""A task and a network on which ICE takes milliseconds, and user's code that trains on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import icycle
from bright_rows import bright_rows
from icycle.methods import FineTune, IceResult
from icycle.training import evaluate

EXAMPLE = torch.zeros(2, 1, 8, 8)


BATCHES, VALIDATION = bright_rows(12), bright_rows(12, seed=1)


def train(model: nn.Module, rates: list[float], optimizer: torch.optim.Optimizer | None = None) -> None:
    """One pass over `BATCHES` for each rate."""
    optimizer = optimizer or torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    model.train()
    for rate in rates:
        for inputs, labels in BATCHES:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()


def accuracy_of(model: nn.Module) -> float:
    return evaluate(model, VALIDATION)


class Asked:
    """A user's training code that remembers what it was asked for."""

    def __init__(self) -> None:
        self.requests: list[FineTune] = []

    def __call__(self, model: nn.Module, request: FineTune) -> None:
        self.requests.append(request)
        train(model, [request.learning_rate])


def prune(model: nn.Module, fine_tune: Any = None, **settings: Any) -> IceResult:
    """`icycle.ice` on the toy task: half of every group, as published a group or a block after the other, with an epoch
    where one is due and four at the end; unless told otherwise."""
    target = {} if "budget" in settings else {"ratio": 0.5}
    course = {"steps": "block", "epochs": 1, "final_epochs": 4, "drop": None}
    given = {"evaluate": accuracy_of, "calibration": BATCHES, **course, **target, **settings}
    return icycle.ice(model, EXAMPLE, fine_tune=fine_tune or Asked(), **given)
