"""The criteria by name. A new criterion is one decorated function; nothing else changes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from icycle.errors import CriterionError
from icycle.structure import Structure

__all__ = ["CRITERIA", "Criterion", "Scores", "check", "criterion", "score"]

Scores = dict[str, torch.Tensor]
F = TypeVar("F", bound=Callable[..., Scores])

_registered: dict[str, Criterion] = {}


@dataclass(frozen=True)
class Criterion:
    """A registered criterion; `inputs` are the keywords it takes besides the model and its structure."""

    name: str
    function: Callable[..., Scores]
    inputs: tuple[str, ...]

    @property
    def needs_data(self) -> bool:
        return "loader" in self.inputs

    @property
    def needs_gradients(self) -> bool:
        return "loss" in self.inputs


CRITERIA: Mapping[str, Criterion] = MappingProxyType(_registered)


def criterion(name: str) -> Callable[[F], F]:
    """Register `function(model, structure, *, ...) -> scores` under `name`.

    Its keywords say what it needs: `loader` (batches), `loss` (gradients), `batches` (how many), `seed`.
    """

    def register(function: F) -> F:
        if name in _registered:
            raise CriterionError(
                f"Expected a new name for a criterion, but {name!r} is registered already; choose another."
            )
        parameters = inspect.signature(function).parameters.values()
        inputs = tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)
        _registered[name] = Criterion(name, function, inputs)
        return function

    return register


def check(name: str, *, loader: Iterable[Any] | None = None, loss: Callable[..., Any] | None = None) -> Criterion:
    """The criterion called `name`, once it is sure that it has what it needs; for asking before any training starts.

    Raises:
        CriterionError: no criterion has this name, or it needs data or gradients and `loader` or `loss` is None.
    """
    if name not in CRITERIA:
        near = difflib.get_close_matches(str(name), CRITERIA, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CriterionError(f"Expected a criterion out of {', '.join(sorted(CRITERIA))}, but got {name!r}{hint}")
    found = CRITERIA[name]
    if found.needs_data and loader is None:
        raise CriterionError(
            f"Criterion {name!r} reads data, but loader is None; pass batches of training data as loader."
        )
    if found.needs_gradients and loss is None:
        raise CriterionError(
            f"Criterion {name!r} reads gradients, but loss is None; pass loss(outputs, targets) -> scalar."
        )
    return found


def score(
    name: str,
    model: torch.nn.Module,
    structure: Structure,
    *,
    loader: Iterable[Any] | None = None,
    loss: Callable[..., torch.Tensor] | None = None,
    batches: int = 8,
    seed: int = 0,
) -> Scores:
    """Scores by the criterion called `name`, which takes of the keywords what it needs; errors as in `check`."""
    found = check(name, loader=loader, loss=loss)
    offered = {"loader": loader, "loss": loss, "batches": batches, "seed": seed}
    return found.function(model, structure, **{key: offered[key] for key in found.inputs if key in offered})
