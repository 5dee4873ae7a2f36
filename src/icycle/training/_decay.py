"""Weight decay by rules: which parameters decay, and how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch

from icycle.errors import TrainingError
from icycle.training._optimizers import Optimizer

__all__ = ["NORMS_AND_BIASES", "build_optimizer"]

NORMS_AND_BIASES = "norms-and-biases"
_SHOWN = 8  # names in an error


def build_optimizer(settings: Optimizer, model: torch.nn.Module, rules: Mapping[str, float]) -> torch.optim.Optimizer:
    """The optimizer of a model's parameters.

    Args:
        rules: pattern of parameters' names -> their weight decay, in place of the optimizer's; the first that matches
            counts. "norms-and-biases" are all parameters of at most one dimension.

    Raises:
        TrainingError: a pattern matches no parameter, or the optimizer knows no weight decay.
    """
    if not rules:
        return settings.build(model.parameters())
    for pattern in rules:
        if not any(_matches(pattern, name, parameter) for name, parameter in model.named_parameters()):
            names = [name for name, _ in model.named_parameters()]
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            raise TrainingError(
                f"Expected patterns of parameters' names in train.weight_decay, but '{pattern}' matches none of {shown}"
            )
    optimizer = settings.build(list(_groups(model, rules)))
    if "weight_decay" not in optimizer.defaults:
        raise TrainingError(
            f"Expected an optimizer with weight decay, as train.weight_decay has rules for it, but "
            f"{type(optimizer).__name__} has none; leave the rules out"
        )
    return optimizer


def _groups(model: torch.nn.Module, rules: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """torch's parameter groups: one per rule, and one for all that no rule is about; none is empty."""
    groups: dict[str | None, list[torch.nn.Parameter]] = {pattern: [] for pattern in (None, *rules)}
    for name, parameter in model.named_parameters():
        rule = next((pattern for pattern in rules if _matches(pattern, name, parameter)), None)
        groups[rule].append(parameter)
    for pattern, parameters in groups.items():
        if parameters:
            yield {"params": parameters} if pattern is None else {"params": parameters, "weight_decay": rules[pattern]}


def _matches(pattern: str, name: str, parameter: torch.Tensor) -> bool:
    return parameter.dim() <= 1 if pattern == NORMS_AND_BIASES else fnmatchcase(name, pattern)
