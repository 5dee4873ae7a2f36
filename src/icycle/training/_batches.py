"""Where batches come from, and what training finds in one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

from icycle.errors import DataError
from icycle.probing import to_device
from icycle.tracing import call_with as run_model  # the name that tasks of one's own know it by
from icycle.tracing import map_tensors

__all__ = ["Batch", "Loader", "batch_size_of", "inputs_of", "run_model", "split_batch", "to_device", "windows"]

# (inputs, targets), or a mapping that holds the targets as "labels"; inputs are a tensor, or a mapping of the
# keywords that the model is called with.
Batch = Any


class Loader(Protocol):
    """Batches of (inputs, targets); a torch `DataLoader` is one. `set_epoch(epoch)` is called where it exists."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


def split_batch(batch: Batch) -> tuple[Any, Any]:
    """Inputs and targets of a batch.

    Raises:
        DataError: it is neither a pair nor a mapping with "labels".
    """
    if isinstance(batch, Mapping) and "labels" in batch:
        return {key: value for key, value in batch.items() if key != "labels"}, batch["labels"]
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    keys = f" with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
    raise DataError(
        "Expected a batch to be a pair (inputs, targets), or a mapping with 'labels', but got "
        f"{type(batch).__name__}{keys}; change what the data set or its collate function returns"
    )


def inputs_of(batch: Batch) -> Any:
    """The inputs of a batch; errors as in `split_batch`."""
    return split_batch(batch)[0]


def windows(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches, one after the other; the last may be shorter."""
    rest = iter(batches)
    while window := list(islice(rest, size)):
        yield window


def batch_size_of(batch: Batch) -> int:
    """How many examples a batch holds: the size of its first tensor's first dimension."""
    sizes: list[int] = []
    map_tensors(batch, lambda tensor: sizes.append(len(tensor)) if tensor.dim() else None)
    if not sizes:
        raise DataError(f"Expected tensors in a batch, but got {type(batch).__name__} without any")
    return sizes[0]
