"""Shards of the WebDataset format, streamed: tar files in which the files of one example stand together."""

from __future__ import annotations

import glob
import io
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from PIL import Image

from icycle.errors import DataError
from icycle.training import Batch
from icycle.zoo._augment import Augment
from icycle.zoo._loaders import Batches, Failure, Mix, Transform, usable_cores
from icycle.zoo._source import Place, Source

__all__ = ["ShardLoader", "shard_source"]

_IMAGES = ("jpg", "jpeg", "png", "webp")
_LABEL = "cls"
_BUFFER = 2000  # examples among which a stream is shuffled
_LAYOUT = f"tar files with an image ({', '.join(_IMAGES)}) and its class as a number (.{_LABEL}) per example"


def shard_source(place: Place) -> Source:
    """`train`, `validation` and `test` shards; validation and test may not be carved from a stream."""
    _import_webdataset()
    given = dict(place.webdataset or {})
    unknown = sorted(set(given) - {"train", "validation", "test"})
    if unknown or set(given) != {"train", "validation", "test"}:
        raise DataError(
            "Expected data.webdataset to name the shards of train, validation and test (a stream is not split), but "
            f"got {sorted(given) or 'none'}"
        )
    parts = {
        part: ShardLoader(pattern, place.batch_size, place.seed, part == "train") for part, pattern in given.items()
    }
    classes = max(part.classes for part in parts.values())
    return Source(
        parts["train"],
        parts["test"],
        classes,
        augmentation=Augment(crop="resized", flip=True),
        validation=parts["validation"],
        name=given["train"],
        files=True,
        size=224,
    )


class ShardLoader(Batches):
    """Batches from shards, read one after the other by `webdataset`; in training in an order that the epoch decides."""

    def __init__(
        self,
        pattern: str,
        batch_size: int,
        seed: int,
        shuffle: bool,
        transform: Transform | None = None,
        mix: Mix | None = None,
    ) -> None:
        self.batch_size = batch_size
        self._pattern, self._seed, self._shuffle = pattern, seed, shuffle
        self._transform, self._mix = transform, mix
        self._urls = _shards(pattern)
        self._epoch = 0

    @property
    def examples(self) -> int:
        return sum(_counted(url)[0] for url in self._urls)

    @property
    def classes(self) -> int:
        """One more than the largest class number."""
        return max(_counted(url)[1] for url in self._urls) + 1

    def __len__(self) -> int:
        whole, rest = divmod(self.examples, self.batch_size)
        return whole if self._shuffle or rest == 0 else whole + 1

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def transformed(self, transform: Transform | None, mix: Mix | None, batch_size: int) -> ShardLoader:
        return ShardLoader(self._pattern, batch_size, self._seed, self._shuffle, transform, mix)

    def __iter__(self) -> Iterator[Batch]:
        pending: list[Any] = []
        for example in self._stream():
            if isinstance(example, Failure):
                raise example.error
            pending.append(example)
            if len(pending) == self.batch_size:
                yield self._collated(pending)
                pending = []
        if pending and not self._shuffle:
            yield self._collated(pending)

    def _collated(self, examples: list[Any]) -> Batch:
        batch = torch.utils.data.default_collate(examples)
        return batch if self._mix is None else self._mix(batch, self._seed * 1_000_003 + self._epoch)

    def _stream(self) -> Iterator[Any]:
        wds = _import_webdataset()
        seed = self._seed * 1_000_003 + self._epoch
        workers = min(len(self._urls), usable_cores()) if self._shuffle else 0
        stream = wds.WebDataset(
            self._urls,
            shardshuffle=len(self._urls) if self._shuffle else False,
            seed=seed,
            detshuffle=True,
            nodesplitter=wds.shardlists.single_node_only,
            workersplitter=wds.split_by_worker,
            empty_check=False,
        )
        if self._shuffle:
            stream = stream.compose(wds.filters.detshuffle(_BUFFER, seed=seed))
        stream = stream.map(_Decoded(self._transform, seed))
        return iter(torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers))

    def share(self, share: float, seed: int) -> Batches:
        raise DataError(
            "Expected data that can be cut, to tune on a share of it, but shards are streamed; set "
            "method.tune.share to 1"
        )

    def shuffled_once(self, batch_size: int, seed: int) -> ShardLoader:
        """The shards as they are: their order was decided when they were written."""
        return ShardLoader(self._pattern, batch_size, self._seed, False, self._transform)


class _Decoded:
    """An example's bytes -> (image, class), transformed under a random state of the example's own."""

    def __init__(self, transform: Transform | None, seed: int) -> None:
        self._transform, self._seed = transform, seed

    def __call__(self, sample: dict[str, Any]) -> Any:
        try:
            return self._example(sample)
        except DataError as error:
            return Failure(error)

    def _example(self, sample: dict[str, Any]) -> Any:
        kind = next((each for each in _IMAGES if each in sample), None)
        if kind is None or _LABEL not in sample:
            found = ", ".join(key for key in sample if not key.startswith("__"))
            raise DataError(f"Expected {_LAYOUT}, but {sample['__key__']} in {sample['__url__']} has {found}")
        try:
            example = Image.open(io.BytesIO(sample[kind])).convert("RGB"), int(sample[_LABEL])
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"Expected {_LAYOUT}, but {sample['__key__']} in {sample['__url__']} cannot be read ({error}); write "
                "the shard anew"
            ) from None
        if self._transform is None:
            return example
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(hash((self._seed, *sample["__key__"].encode())) % 2**63)
            return self._transform(example)


@lru_cache(maxsize=100_000)
def _counted(url: str) -> tuple[int, int]:
    """Examples and largest class number of a shard, from its headers and its class files."""
    count, largest = 0, -1
    try:
        with tarfile.open(url) as archive:
            for member in archive:
                if member.name.endswith(f".{_LABEL}"):
                    content = archive.extractfile(member)
                    assert content is not None
                    count, largest = count + 1, max(largest, int(content.read()))
    except (OSError, tarfile.TarError, ValueError) as error:
        raise DataError(f"Expected {_LAYOUT} in {url}, but it cannot be read: {error}") from error
    if count == 0:
        raise DataError(f"Expected {_LAYOUT} in {url}, but there is no .{_LABEL} file in it")
    return count, largest


def _shards(pattern: str) -> list[str]:
    from braceexpand import braceexpand

    urls = [found for part in braceexpand(pattern) for found in sorted(glob.glob(part)) or [part]]
    missing = [url for url in urls if not glob.glob(glob.escape(url))]
    if missing or not urls:
        raise DataError(f"Expected shards at {pattern}, but there is none at {(missing or [pattern])[0]}")
    return urls


def _import_webdataset() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise DataError(
            "Expected webdataset to be installed, which data.webdataset needs; run: pip install 'icycle[webdataset]'"
        ) from error
    return webdataset
