"""Data of the user's own: what a function returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import torch

from icycle.errors import DataError, IcycleError
from icycle.zoo._loaders import Examples, OwnLoader
from icycle.zoo._source import Part, Place, Source

__all__ = ["own_source"]

_RETURNS = (
    "a mapping with 'train' and, if there are such, 'validation', 'test' (torch data sets, or loaders of batches) and "
    "'classes'; or a pair (train, test) or triple (train, validation, test) of them"
)


def own_source(name: str, function: Callable[..., Any], place: Place) -> Source:
    """What `function` returns, called with the recipe's options, and with folder, batch_size and seed where it takes
    them.

    Raises:
        DataError: it raises an error, or returns something else.
    """
    given = {**_taken(function, place), **(place.options or {})}
    try:
        made = function(**given)
    except IcycleError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise DataError(f"Expected '{name}' to return data, but it gave {type(error).__name__}: {error}") from error
    if isinstance(made, Source):
        return made
    parts = _named(name, made)
    train, validation, test = (_part(name, part, parts.get(part), place) for part in ("train", "validation", "test"))
    if train is None:
        raise DataError(f"Expected '{name}' to return {_RETURNS}, but there is no train")
    classes = parts.get("classes") or _classes(parts["train"], train)
    return Source(train, test, int(classes), validation=validation, name=name, images=False)


def _taken(function: Callable[..., Any], place: Place) -> dict[str, Any]:
    offered = {"folder": place.folder, "batch_size": place.batch_size, "seed": place.seed}
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise DataError(f"Expected a function that returns data, but got {function!r}") from error
    return {key: value for key, value in offered.items() if key in parameters and value is not None}


def _named(name: str, made: Any) -> Mapping[str, Any]:
    if isinstance(made, Mapping):
        return made
    keys = {2: ("train", "test"), 3: ("train", "validation", "test")}.get(len(made) if isinstance(made, tuple) else 0)
    if keys is None:
        raise DataError(f"Expected '{name}' to return {_RETURNS}, but got {type(made).__name__}")
    return dict(zip(keys, made, strict=True))


def _part(name: str, kind: str, part: Any, place: Place) -> Part | None:
    if part is None:
        return None
    if isinstance(part, torch.utils.data.Dataset) and isinstance(part, Sized) and hasattr(part, "__getitem__"):
        return Examples(part, _labels(part))
    if isinstance(part, Iterable):
        return OwnLoader(part, place.batch_size)
    raise DataError(f"Expected {kind} of '{name}' to be a torch data set or a loader, but got {type(part).__name__}")


def _labels(dataset: Any) -> torch.Tensor | None:
    """The class of every example, where the data set tells it as torchvision's do."""
    found = getattr(dataset, "targets", None)
    if found is None and isinstance(dataset, torch.utils.data.TensorDataset) and len(dataset.tensors) == 2:
        found = dataset.tensors[1]
    if found is None or len(found) != len(dataset):
        return None
    labels = torch.as_tensor(found)
    return labels if labels.dim() == 1 and not labels.is_floating_point() else None


def _classes(dataset: Any, part: Part) -> int:
    """How many classes there are, as far as the data set tells; 0: it does not."""
    named = getattr(dataset, "classes", None)
    if isinstance(named, Sized):
        return len(named)
    labels = part.labels if isinstance(part, Examples) else None
    return 0 if labels is None else int(labels.max()) + 1
