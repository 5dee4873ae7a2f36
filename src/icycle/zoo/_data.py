"""Training, validation and test data, ready to be trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from icycle.errors import DataError
from icycle.zoo._batches import Augmentation, Images, SealedLoader, TensorLoader
from icycle.zoo._sources import read_source
from icycle.zoo._split import stratified_split

__all__ = ["Data", "load_data"]


@dataclass(frozen=True)
class Data:
    """What a run reads: all decisions use `validation`, and `test` opens once, at the end."""

    name: str
    classes: int
    shape: tuple[int, int, int]  # channels, height, width
    train: TensorLoader
    calibration: TensorLoader  # the training images as they are, for statistics
    validation: TensorLoader
    test: SealedLoader

    def example(self) -> torch.Tensor:
        """One input `(1, channels, height, width)` of the shape that batches have, for tracing."""
        return torch.zeros(1, *self.shape, device=self.train.images.pixels.device)


def load_data(
    name: str,
    *,
    batch_size: int,
    folder: Path | None = None,
    subset: int | None = None,
    validation: float = 0.1,
    augment: bool = True,
    channels: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Data:
    """Read a data set and split it.

    Args:
        name: one of `dataset_names()`.
        batch_size: of training; evaluation uses larger batches.
        folder: where its files are; by default where the data set's usual package puts them, or a download.
        subset: use this many training examples (stratified; validation is carved from them); all when omitted.
        validation: the share of the training data that is set aside for decisions, 0 < share < 1.
        augment: crop and flip training images where that keeps their class.
        channels: 3 repeats grey images into three channels; as they are when omitted.
        seed: chooses subset, split, order and augmentation.
        device: where the images are kept.

    Raises:
        DataError: unknown name, missing or damaged files, a subset or split of impossible size.
    """
    read = read_source(name, folder)
    pool = _subset(read.train, subset, seed)
    kept, held_out = stratified_split(pool.labels, share=validation, seed=seed)
    if len(kept) == 0 or len(held_out) == 0:
        raise DataError(
            f"Expected training and validation examples from {len(pool)} images of '{name}', but a validation share of "
            f"{validation} leaves {len(kept)} and {len(held_out)}; change data.validation or data.subset"
        )
    train, held, test = (
        _with_channels(part, channels, name) for part in (pool.take(kept), pool.take(held_out), read.test)
    )
    mean, std = _pixel_statistics(train.pixels)
    make = partial(TensorLoader, mean=mean, std=std, seed=seed)
    train = train.to(device)
    return Data(
        name=name,
        classes=read.classes,
        shape=(train.pixels.shape[1], train.pixels.shape[2], train.pixels.shape[3]),
        train=make(train, batch_size, shuffle=True, augmentation=read.augmentation if augment else Augmentation()),
        calibration=make(train, batch_size, shuffle=True),
        validation=make(held.to(device), 4 * batch_size),
        test=SealedLoader(make(test.to(device), 4 * batch_size)),
    )


def _subset(images: Images, size: int | None, seed: int) -> Images:
    if size is None:
        return images
    if not 0 < size <= len(images):
        raise DataError(f"Expected a subset of 1 to {len(images)} examples, but got {size}; change data.subset")
    return images.take(stratified_split(images.labels, share=size / len(images), seed=seed)[1])


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
