"""Which validation examples a network is right on, and a means to know them again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import torch

from icycle.tracing import map_tensors
from icycle.training import Batch, split_batch

__all__ = ["CorrectPerBatch", "Judged", "judged"]


class Judged(NamedTuple):
    """A batch of examples: which of them a network is right on, bool `(batch,)`, and a hash of their labels."""

    right: torch.Tensor
    labels: str


# model -> the batches of the validation split: the same ones in the same order each time, an order that has nothing to
# do with the answers
CorrectPerBatch = Callable[[torch.nn.Module], Generator[Judged, None, None]]


def judged(
    loader: Iterable[Batch], judge: Callable[[Iterable[Batch]], Generator[torch.Tensor, None, None]]
) -> Generator[Judged, None, None]:
    """The batches of `loader` as `judge` finds them; one is read when it is asked for, and no sooner."""
    labels = ""

    def watched() -> Iterator[Batch]:
        nonlocal labels
        for batch in loader:
            labels = _hash(split_batch(batch)[1])
            yield batch

    with closing(judge(watched())) as rights:
        for right in rights:
            yield Judged(right, labels)


def _hash(labels: Any) -> str:
    """Of all tensors in `labels`."""
    digest = hashlib.blake2b(digest_size=16)

    def add(tensor: torch.Tensor) -> None:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    map_tensors(labels, add)
    return digest.hexdigest()
