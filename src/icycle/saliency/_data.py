"""The batches that a criterion reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from icycle.errors import CriterionError

__all__ = ["first_batches"]


def first_batches(loader: Iterable[Any] | None, batches: int, name: str) -> Iterator[Any]:
    """The first `batches` of `loader`; CriterionError where there is none."""
    if loader is None:
        raise CriterionError(
            f"Criterion {name!r} reads data, but loader is None; pass batches of training data as loader."
        )
    if batches < 1:
        raise CriterionError(f"Expected batches >= 1 for criterion {name!r}, but got {batches}.")
    batch = None
    for batch in islice(loader, batches):
        yield batch
    if batch is None:
        raise CriterionError(f"Expected at least one batch for criterion {name!r}, but the loader is empty.")
