"""Batches of what is not kept in memory as images: data sets read by worker processes, and streams."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from icycle.errors import DataError, IcycleError
from icycle.training import Batch, rows_of
from icycle.zoo._split import stratified_split

__all__ = ["Batches", "DatasetLoader", "Examples", "Failure", "OwnLoader", "usable_cores"]

Transform = Callable[[Any], Any]  # of one example, (input, target) or a mapping
Mix = Callable[[Batch, int], Batch]  # batch, seed -> batch with its examples mixed


class Batches(ABC):
    """A loader of batches: what `training.Loader` asks for, and what methods ask for beside it."""

    batch_size: int

    @property
    @abstractmethod
    def examples(self) -> int:
        """How many examples a pass has."""

    @property
    def repeats(self) -> bool:
        """Does an example look the same in every pass?"""
        return False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]: ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next pass."""
        return

    def transformed(self, transform: Transform | None, mix: Mix | None, batch_size: int) -> Batches:
        """The loader with its examples transformed and its batches mixed, where it makes batches itself."""
        return self

    @abstractmethod
    def share(self, share: float, seed: int) -> Batches:
        """A loader like this one over a share (0..1) of the examples, every class in its proportion."""

    @abstractmethod
    def shuffled_once(self, batch_size: int, seed: int) -> Batches:
        """The same examples in the same order each time, an order that has nothing to do with their targets."""


@dataclass(frozen=True)
class Examples:
    """A data set of (input, target) or of mappings; `labels`, int64 `(n,)`, where each example has one class."""

    dataset: Dataset[Any]
    labels: torch.Tensor | None = None

    def __len__(self) -> int:
        assert isinstance(self.dataset, Sized)
        return len(self.dataset)

    def take(self, index: torch.Tensor) -> Examples:
        """The examples at `index`, int64 `(m,)`."""
        labels = None if self.labels is None else self.labels[index]
        return Examples(Subset(self.dataset, index.tolist()), labels)

    def split(self, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of two parts, the second with `share` of the examples, and of every class where there are some."""
        labels = torch.zeros(len(self), dtype=torch.int64) if self.labels is None else self.labels
        return stratified_split(labels, share=share, seed=seed)


class DatasetLoader(Batches):
    """Batches of a torch data set, read and transformed by worker processes.

    The order, and what chance does to an example, are functions of `seed`, the epoch and the example, however many
    workers there are: each example is read under a random state of its own.

    Args:
        transform: of an example as the data set gives it.
        mix: of a whole batch, e.g. mixup.
        shuffle: a new order every epoch; an incomplete last batch is then left out, so that all steps weigh the same.
        workers: processes that read; 0: this one does.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        *,
        transform: Transform | None = None,
        mix: Mix | None = None,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.batch_size = batch_size
        self._data = examples
        self._options: dict[str, Any] = {"transform": transform, "mix": mix, "shuffle": shuffle, "workers": workers}
        self._mix = mix
        self._seed = seed
        self._order = _Order(len(examples), batch_size, shuffle, seed)
        self._loader: DataLoader[Any] | None = None

    @property
    def examples(self) -> int:
        return len(self._data)

    def __len__(self) -> int:
        return len(self._order)

    def set_epoch(self, epoch: int) -> None:
        self._order.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        self._loader = self._loader or self._open()
        for number, batch in enumerate(self._loader):
            if isinstance(batch, Failure):
                raise batch.error
            yield batch if self._mix is None else self._mix(batch, _mixed(self._seed, self._order.epoch, number))

    def _open(self) -> DataLoader[Any]:
        workers = self._options["workers"]
        return DataLoader(
            _Seeded(self._data.dataset, self._options["transform"], self._seed),
            batch_sampler=self._order,
            collate_fn=_collated,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the run's own random state is left alone
        )

    def share(self, share: float, seed: int) -> DatasetLoader:
        return self._over(self._data.take(self._data.split(share, seed)[1]), self.batch_size)

    def shuffled_once(self, batch_size: int, seed: int) -> DatasetLoader:
        order = torch.randperm(len(self._data), generator=torch.Generator().manual_seed(seed))
        return self._over(self._data.take(order), batch_size)

    def part(self, rank: int, count: int, *, even: bool) -> DatasetLoader:
        """The rows of every batch that are process `rank`'s of `count`, and nothing else, are read; see
        `training.rows_of`. Mixed are those rows among each other."""
        other = self._over(self._data, self.batch_size)
        other._order.rows = partial(rows_of, rank=rank, count=count, even=even)
        return other

    def _over(self, examples: Examples, batch_size: int) -> DatasetLoader:
        return DatasetLoader(examples, batch_size, seed=self._seed, **self._options)


class OwnLoader(Batches):
    """A loader of the user's own, as it is; `examples` is counted on the first pass unless it tells by its data set."""

    def __init__(self, loader: Iterable[Batch], batch_size: int, examples: int | None = None) -> None:
        if not isinstance(loader, Sized):
            raise DataError(
                f"Expected a loader whose length is known, but {type(loader).__name__} has none; give it a __len__ "
                "that says how many batches a pass has"
            )
        self.batch_size = int(getattr(loader, "batch_size", None) or batch_size)
        self._loader = loader
        dataset = getattr(loader, "dataset", None)
        known = len(dataset) if isinstance(dataset, Sized) else len(loader) * self.batch_size
        self._examples = known if examples is None else examples

    @property
    def examples(self) -> int:
        return self._examples

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def set_epoch(self, epoch: int) -> None:
        for part in (self._loader, getattr(self._loader, "sampler", None), getattr(self._loader, "dataset", None)):
            if part is not None and hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def share(self, share: float, seed: int) -> Batches:
        raise DataError(
            "Expected data that can be cut, to tune on a share of it, but this loader only gives batches; set "
            "method.tune.share to 1, or return a data set instead of a loader"
        )

    def shuffled_once(self, batch_size: int, seed: int) -> Batches:
        """The loader as it is: its order is its owner's."""
        return self


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Order:
    """A batch sampler: lists of (epoch, index), so that workers that live on know the epoch."""

    def __init__(self, count: int, batch_size: int, shuffle: bool, seed: int) -> None:
        self._count, self._batch_size, self._shuffle, self._seed = count, batch_size, shuffle, seed
        self.epoch = 0
        self.rows: Callable[[int], slice] = slice  # of a batch of so many examples those that are read: all

    def __len__(self) -> int:
        whole, rest = divmod(self._count, self._batch_size)
        return whole if self._shuffle or rest == 0 else whole + 1

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(_mixed(self._seed, self.epoch))
        order = torch.randperm(self._count, generator=generator) if self._shuffle else torch.arange(self._count)
        for batch in order[: len(self) * self._batch_size].split(self._batch_size):
            own = batch[self.rows(len(batch))].tolist()
            if own:
                yield [(self.epoch, index) for index in own]


@dataclass(frozen=True)
class Failure:
    """An example that could not be read; a worker that raised the error would put its traceback into the message."""

    error: IcycleError


def _collated(examples: list[Any]) -> Any:
    """A batch, or the first failure in it."""
    failures = (example for example in examples if isinstance(example, Failure))
    return next(failures, None) or default_collate(examples)


class _Seeded(Dataset[Any]):
    """Reads and transforms an example under a random state of its own."""

    def __init__(self, dataset: Dataset[Any], transform: Transform | None, seed: int) -> None:
        self._dataset, self._transform, self._seed = dataset, transform, seed

    def __getitem__(self, place: tuple[int, int]) -> Any:
        epoch, index = place
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_mixed(self._seed, epoch, index))
            try:
                example = self._dataset[index]
                return example if self._transform is None else self._transform(example)
            except IcycleError as error:
                return Failure(error)


def _mixed(*numbers: int) -> int:
    """One seed from several numbers: each is added to what the earlier ones were multiplied to."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    return seed
