"""The criteria by name. A new criterion is one decorated function, or an undecorated one named by its import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from icycle.errors import CriterionError, IcycleError
from icycle.registry import Kind
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
_KIND: Kind[Any] = Kind("a criterion", "icycle.criteria", CRITERIA, CriterionError)


def criterion(name: str) -> Callable[[F], F]:
    """Register `function(model, structure, *, ...) -> scores` under `name`.

    Its keywords say what it needs: `loader` (batches), `loss` (gradients), `batches` (how many), `seed`.
    """

    def register(function: F) -> F:
        if name in _registered:
            raise CriterionError(
                f"Expected a new name for a criterion, but {name!r} is registered already; choose another."
            )
        _registered[name] = _criterion(name, function)
        return function

    return register


def _criterion(name: str, function: Callable[..., Scores]) -> Criterion:
    parameters = inspect.signature(function).parameters.values()
    inputs = tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)
    return Criterion(name, function, inputs)


def check(name: str, *, loader: Iterable[Any] | None = None, loss: Callable[..., Any] | None = None) -> Criterion:
    """The criterion called `name`, once it is sure that it has what it needs; for asking before any training starts.

    Raises:
        CriterionError: no criterion has this name, or it needs data or gradients and `loader` or `loss` is None.
        RecipeError: the name is an import path that leads nowhere.
    """
    found = _KIND.find(name)
    if not isinstance(found, Criterion):
        found = _criterion(name, found)
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
    """Scores by the criterion called `name`, which takes of the keywords what it needs.

    Raises:
        CriterionError: as in `check`, or the criterion raises an error, or returns something else than scores.
    """
    found = check(name, loader=loader, loss=loss)
    offered = {"loader": loader, "loss": loss, "batches": batches, "seed": seed}
    try:
        scores = found.function(model, structure, **{key: offered[key] for key in found.inputs if key in offered})
    except IcycleError:
        raise
    except Exception as error:  # whatever the criterion's own code raises
        raise CriterionError(
            f"Expected {name!r} to return scores, but it gave {type(error).__name__}: {error}."
        ) from error
    if not isinstance(scores, Mapping):
        raise CriterionError(
            f"Expected {name!r} to return a mapping of group names to scores, but got {type(scores).__name__}."
        )
    return scores
