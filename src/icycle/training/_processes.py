"""Several processes that train one network: they hold the same weights, and each reads its part of every batch.

torchrun or `accelerate launch` starts them. The first one decides, writes and prints; what it decides is told to the
others. In a program with one process each function here does nothing, or gives back what it was given.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import distributed

from icycle.errors import TrainingError
from icycle.tracing import map_tensors
from icycle.training._batches import Batch, Loader, batch_size_of

__all__ = [
    "from_first",
    "gathered",
    "is_first",
    "join_processes",
    "largest",
    "launched_processes",
    "local_processes",
    "on_first",
    "part_of",
    "process_count",
    "require_divisible",
    "rows_of",
    "share_buffers",
    "totals",
]

T = TypeVar("T")


@runtime_checkable
class Divisible(Protocol):
    """A loader that can leave out, before it reads them, the examples of the other processes."""

    def part(self, rank: int, count: int, *, even: bool) -> Loader: ...


def launched_processes() -> int:
    """How many processes were launched together with this one, itself included; whether or not they have met."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_processes() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def join_processes() -> torch.device:
    """Meet the processes that were launched together with this one, if any; the device that it computes on.

    May be called again at any time.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # `accelerate launch --cpu`
    if launched_processes() > 1 and state.num_processes == 1:
        PartialState._reset_state()  # without an accelerator it takes each process for the only one, unless told
        state = PartialState(cpu=True)
    if state.num_processes > 1:
        _leave_at_exit()
    return torch.device(state.device)


@cache
def _leave_at_exit() -> None:
    """gloo's threads abort a process that ends without having left its group."""
    atexit.register(_leave)


def _leave() -> None:
    gc.collect()  # a wrapper that is part of a circle would hold the group beyond its end
    if distributed.is_initialized():
        distributed.destroy_process_group()


def process_count() -> int:
    """How many processes train together."""
    met = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if met else 1


def is_first() -> bool:
    """Is this the process that decides, writes and prints?"""
    return process_count() == 1 or distributed.get_rank() == 0


def from_first(value: T) -> T:
    """The first process's value, in every process. All of them must ask."""
    if process_count() == 1:
        return value
    told = [value]
    distributed.broadcast_object_list(told, src=0)
    return told[0]


def on_first(make: Callable[[], T]) -> T:
    """What `make()` returns in the first process, which alone calls it, in every process.

    Raises:
        TrainingError: in the others, where it raised in the first.
    """
    if process_count() == 1:
        return make()
    if not is_first():
        done, value = from_first((False, None))
        if not done:
            raise TrainingError("Expected the first process to go on, but it failed; see its own message")
        return value  # type: ignore[return-value]
    try:
        value = make()
    except BaseException:
        from_first((False, None))
        raise
    return from_first((True, value))[1]


def totals(*values: float) -> tuple[float, ...]:
    """The sum of each value over all processes."""
    return _reduced(values, distributed.ReduceOp.SUM) if process_count() > 1 else values


def largest(*values: float) -> tuple[float, ...]:
    """The largest of each value over all processes."""
    return _reduced(values, distributed.ReduceOp.MAX) if process_count() > 1 else values


def gathered(values: torch.Tensor) -> torch.Tensor:
    """The values `(n,)` of all processes, one process after the other; n may differ among them."""
    if process_count() == 1:
        return values
    size = torch.tensor([len(values)], device=values.device)
    sizes = [torch.empty_like(size) for _ in range(process_count())]
    distributed.all_gather(sizes, size)
    padded = torch.zeros(int(max(sizes)), dtype=torch.uint8, device=values.device)
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return torch.cat([part[: int(own)] for part, own in zip(parts, sizes, strict=True)]).to(values.dtype)


@torch.no_grad()
def share_buffers(model: torch.nn.Module) -> None:
    """Give every process the same buffers: the mean over all of each float one (batch-norm statistics, of which each
    process has seen another part), and the first process's of all others."""
    if process_count() == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            distributed.all_reduce(buffer.div_(process_count()))
        else:
            distributed.broadcast(buffer, src=0)


def rows_of(size: int, rank: int, count: int, *, even: bool) -> slice:
    """The rows of a batch of `size` that process `rank` of `count` reads. Together they are the batch; `even`: all of
    the same number, and up to `count` - 1 rows at the end are left out."""
    if even:
        return slice(rank * (size // count), (rank + 1) * (size // count))
    return slice(size * rank // count, size * (rank + 1) // count)


def part_of(loader: Any, *, even: bool) -> Any:
    """This process's part of every batch of `loader`; batches of which it has nothing are passed over.

    It is as long as the loader is. For `even` see `rows_of`.
    """
    if process_count() == 1:
        return loader
    rank, count = distributed.get_rank(), process_count()
    return loader.part(rank, count, even=even) if isinstance(loader, Divisible) else _Part(loader, rank, count, even)


def require_divisible(batch_size: int) -> None:
    """Raises TrainingError where a batch cannot be cut into equal parts for all processes."""
    count = process_count()
    if batch_size % count:
        below = batch_size - batch_size % count
        near = " or ".join(str(size) for size in (below, below + count) if size)
        raise TrainingError(
            f"Expected train.batch_size, the batch of all processes together, to be a multiple of their number, "
            f"but got {batch_size} for {count} processes; set it to {near}, or start another number of them"
        )


class _Part:
    """A part of every batch of a loader that reads them whole."""

    def __init__(self, loader: Loader, rank: int, count: int, even: bool) -> None:
        self._loader, self._rank, self._count, self._even = loader, rank, count, even

    def __len__(self) -> int:
        return len(self._loader)

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self._loader, "set_epoch"):
            self._loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            size = batch_size_of(batch)
            rows = rows_of(size, self._rank, self._count, even=self._even)
            if rows.start < rows.stop:
                yield _cut(batch, size, rows)


def _cut(batch: Batch, size: int, rows: slice) -> Batch:
    """The rows of all tensors that have one for each example."""
    return map_tensors(batch, lambda tensor: tensor[rows] if tensor.dim() and len(tensor) == size else tensor)


def _reduced(values: tuple[float, ...], operation: Any) -> tuple[float, ...]:
    joint = torch.tensor(values, dtype=torch.float64, device=join_processes())
    distributed.all_reduce(joint, op=operation)
    return tuple(joint.tolist())
