"""Training, validation and test data, ready to be trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from icycle.errors import DataError
from icycle.tracing import map_tensors
from icycle.training import inputs_of, local_processes
from icycle.zoo._augment import IMAGENET_MEAN, IMAGENET_STD, Augment, evaluation_transform, training_transform
from icycle.zoo._batches import Augmentation, Images, SealedLoader, TensorLoader
from icycle.zoo._loaders import Batches, DatasetLoader, Examples, usable_cores
from icycle.zoo._sources import Part, Place, Source, read_source

__all__ = ["Data", "load_data"]

_MOST_WORKERS = 8  # by default; what more are good for depends on the disk


@dataclass(frozen=True)
class Data:
    """What a run reads: all decisions use `validation`, and `test` opens once, at the end."""

    name: str
    classes: int  # what the network has to tell: classes, labels, numbers, or words of the vocabulary
    train: Batches
    calibration: Batches  # the training examples as they are, for statistics
    validation: Batches
    test: SealedLoader
    inputs: Any  # of one example, with a batch dimension of 1: a tensor, or a mapping of the model's keywords

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input, without the batch; () where an input is no single tensor. Images: channels, height, width."""
        return tuple(self.inputs.shape[1:]) if isinstance(self.inputs, torch.Tensor) else ()

    def example(self, batch: int = 1) -> Any:
        """Inputs of the shape that batches have, the same example `batch` times; for tracing, and to time a network."""
        return map_tensors(self.inputs, lambda tensor: tensor.expand(batch, *tensor.shape[1:]).contiguous())


def load_data(
    name: str | None = None,
    *,
    batch_size: int,
    folder: Path | None = None,
    huggingface: str | None = None,
    webdataset: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    classes: int | None = None,
    subset: int | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    augment: bool | Augment = True,
    size: int | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    workers: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Data:
    """Read a data set and split it.

    Args:
        name: one of `dataset_names()`, or `package.module:function`.
        batch_size: of training; evaluation uses larger batches.
        folder: where the named data set's files are, by default where its usual package puts them, or a download.
            Without a name: images, in `train/`, `val/` and `test/` with a folder per class each (val and test may be
            missing), or a folder per class alone.
        huggingface: without a name: a data set of the Hugging Face hub, or a local parquet, arrow, csv or jsonl file,
            or a folder of them; read by `datasets`.
        webdataset: without a name: the shards of `train`, `validation` and `test` as patterns
            (`shards/train-{000000..000009}.tar`); read by `webdataset`.
        options: more keywords of the named function, or of `datasets.load_dataset`.
        classes: of data that does not say itself how many it has.
        subset: use this many training examples (stratified; validation is carved from them); all when omitted.
        validation: the share of the training data that is set aside for decisions, 0 < share < 1; where the data has
            a validation part of its own, that one decides.
        test: the share of the training data set aside for the end where the data has no test part; whatever the seed
            is, it is the same.
        augment: what chance does to training images; true: what suits the data set, false: nothing.
        size: pixels a side; the images' own where they all have one size, and 224 else.
        channels: 1 or 3; as the images are when omitted.
        mean, std: normalise images by these (0..1, per channel). When omitted: the statistics of images that are in
            memory, and ImageNet's for those that are read from files.
        workers: processes that read files; as many as there are cores, up to 8, when omitted; of several processes that
            train on one machine each has its share of the cores. What is in memory needs none.
        seed: chooses subset, split, order and augmentation.
        device: where images in memory are kept.

    Raises:
        DataError: unknown name, missing or damaged files, a subset or split of impossible size.
    """
    place = Place(folder, huggingface, webdataset, options or {}, batch_size, seed)
    read = read_source(name, place, classes)
    parts = _split(read, subset, validation, test, seed)
    chosen = read.augmentation if augment is True else augment or Augment()
    look = _Look(chosen, size or read.size, channels, mean, std)
    if all(isinstance(part, Images) for part in parts) and look.in_memory:
        images = [_with_channels(part, channels, read.name) for part in parts]  # type: ignore[arg-type]
        return _in_memory(read, images, look, batch_size, seed, device)
    spare = max(1, usable_cores() // local_processes())
    count = workers if workers is not None else min(spare, _MOST_WORKERS) if read.files else 0
    return _from_datasets(read, parts, look, batch_size, seed, count, device)


@dataclass(frozen=True)
class _Look:
    """What is done to images."""

    augment: Augment
    size: int | None
    channels: int | None
    mean: Sequence[float] | None
    std: Sequence[float] | None

    @property
    def in_memory(self) -> bool:
        """Is it what whole batches of images in memory can undergo?"""
        return self.augment.simple and self.size is None and self.mean is None and self.std is None

    def transforms(self, read: Source) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """For training, and for all else."""
        channels = self.channels or read.channels
        mean = self.mean or (IMAGENET_MEAN if channels == 3 else [0.5] * channels)
        std = self.std or (IMAGENET_STD if channels == 3 else [0.5] * channels)
        if not len(mean) == len(std) == channels:
            raise DataError(f"Expected {channels} values of data.mean and data.std, but got {mean} and {std}")
        margin = self.augment.crop == "resized"
        return (
            training_transform(self.augment, self.size, channels, mean, std),
            evaluation_transform(self.size, channels, mean, std, margin=margin),
        )


def _split(read: Source, subset: int | None, validation: float, test: float, seed: int) -> list[Part]:
    """The parts for training, validation and test: the data's own, or carved from its training part."""
    pool, held, last = read.train, read.validation, read.test
    if isinstance(pool, Batches):
        return [pool, _required(held, "validation", read.name), _required(last, "test", read.name)]
    if last is None:
        pool, last = _carve(pool, test, 0, "data.test", read.name)  # seed 0: the same test set for every run
    pool = _subset(pool, subset, seed)
    if held is None:
        pool, held = _carve(pool, validation, seed, "data.validation", read.name)
    return [pool, held, last]


def _carve(pool: Any, share: float, seed: int, setting: str, name: str) -> tuple[Any, Any]:
    kept, taken = pool.split(share, seed)
    if len(kept) == 0 or len(taken) == 0:
        raise DataError(
            f"Expected training and {setting.removeprefix('data.')} examples from {len(pool)} of '{name}', but a share "
            f"of {share} leaves {len(kept)} and {len(taken)}; change {setting} or data.subset"
        )
    return pool.take(kept), pool.take(taken)


def _required(part: Part | None, kind: str, name: str) -> Part:
    if part is None:
        raise DataError(
            f"Expected a {kind} part of '{name}', whose training part comes in batches and cannot be split, but there "
            f"is none; give one"
        )
    return part


def _subset(part: Any, size: int | None, seed: int) -> Any:
    if size is None:
        return part
    if not 0 < size <= len(part):
        raise DataError(f"Expected a subset of 1 to {len(part)} examples, but got {size}; change data.subset")
    return part.take(part.split(size / len(part), seed)[1])


def _in_memory(read: Source, parts: Sequence[Images], look: _Look, batch_size: int, seed: int, device: str) -> Data:
    train, held, test = (part.to(device) for part in parts)
    mean, std = _pixel_statistics(parts[0].pixels)
    make = partial(TensorLoader, mean=mean, std=std, seed=seed)
    augmentation = Augmentation(crop=int(look.augment.crop), flip=look.augment.flip)
    mix = look.augment.mixing(read.classes)
    return Data(
        name=read.name,
        classes=read.classes,
        train=make(train, batch_size, shuffle=True, augmentation=augmentation, mix=mix),
        calibration=make(train, batch_size, shuffle=True),
        validation=make(held, 4 * batch_size),
        test=SealedLoader(make(test, 4 * batch_size)),
        inputs=torch.zeros(1, *train.pixels.shape[1:], device=device),
    )


def _from_datasets(
    read: Source, parts: Sequence[Part], look: _Look, batch_size: int, seed: int, workers: int, device: str
) -> Data:
    """Loaders that read examples one by one; parts that are loaders already stay as they are."""
    learn, look_at = look.transforms(read) if read.images else (None, None)
    mix = look.augment.mixing(read.classes) if read.images else None
    make = partial(_loader, read, workers=workers, seed=seed)
    train, held, test = parts
    calibration = make(train, batch_size, transform=look_at, shuffle=True)
    validation = make(held, 4 * batch_size, transform=look_at)
    return Data(
        name=read.name,
        classes=read.classes,
        train=make(train, batch_size, transform=learn, mix=mix, shuffle=True),
        calibration=calibration,
        validation=validation,
        test=SealedLoader(make(test, 4 * batch_size, transform=look_at)),
        inputs=_first_input(held, look_at, device),
    )


def _loader(read: Source, part: Part, batch_size: int, **options: Any) -> Batches:
    if isinstance(part, Batches):
        return part.transformed(options["transform"], options.get("mix"), batch_size)
    examples = Examples(_ImageDataset(part), part.labels) if isinstance(part, Images) else part
    return DatasetLoader(examples, batch_size, **options)


def _first_input(part: Part, transform: Callable[[Any], Any] | None, device: str) -> Any:
    """The inputs of one example, with a batch dimension."""
    single = _first_loader(part, transform)
    batch = next(iter(single), None)
    if batch is None:
        raise DataError("Expected at least one validation example, but there is none; raise data.validation")
    return map_tensors(inputs_of(batch), lambda tensor: tensor[:1].to(device))


def _first_loader(part: Part, transform: Callable[[Any], Any] | None) -> Batches:
    if isinstance(part, Batches):
        return part.transformed(transform, None, 1)
    examples = Examples(_ImageDataset(part), part.labels) if isinstance(part, Images) else part
    return DatasetLoader(examples, 1, transform=transform)


class _ImageDataset(Dataset[Any]):
    """Images in memory, one by one."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._images.pixels[index], int(self._images.labels[index])


def _with_channels(images: Images, channels: int | None, name: str) -> Images:
    own = images.pixels.shape[1]
    if channels in (None, own):
        return images
    if own != 1:
        raise DataError(
            f"Expected data.channels={own} or none for '{name}', but got {channels}: its images have colours"
        )
    return Images(images.pixels.expand(-1, channels, -1, -1), images.labels)


def _pixel_statistics(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation per channel, 0..255, each `(channels,)`; exact, from the counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64)
    moments = []
    for channel in range(pixels.shape[1]):
        weights = torch.bincount(pixels[:, channel].flatten().int(), minlength=256).double()
        weights /= weights.sum()
        mean = (weights * values).sum()
        moments.append((mean, (weights * (values - mean) ** 2).sum().sqrt().clamp_min(1e-3)))
    means, stds = zip(*moments, strict=True)
    return torch.stack(means).float(), torch.stack(stds).float()
