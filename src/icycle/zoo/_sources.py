"""Data sets by name or place: where their files are, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from icycle.errors import DataError
from icycle.registry import Kind, is_import_path
from icycle.zoo._augment import Augment
from icycle.zoo._batches import Images
from icycle.zoo._binary import read_cifar, read_idx
from icycle.zoo._folders import image_folder, imagenet, tiny_imagenet
from icycle.zoo._generated import chain, diabetes, shapes, shapes_labels, tags
from icycle.zoo._huggingface import huggingface_source
from icycle.zoo._own import own_source
from icycle.zoo._shards import shard_source
from icycle.zoo._source import Part, Place, Source
from icycle.zoo._split import stratified_split

__all__ = ["Part", "Place", "Source", "dataset_names", "read_source", "require_dataset", "source"]

_DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
_CACHE = Path("~/.cache/icycle/data")

Reader = Callable[[Path | None], Source]
_READERS: dict[str, Reader] = {}
_KIND: Kind[Reader] = Kind("a data set", "icycle.data", _READERS, DataError)


def source(name: str) -> Callable[[Reader], Reader]:
    """Register a reader of the data set `name`; it gets the user's folder, or None."""

    def register(reader: Reader) -> Reader:
        _READERS[name] = reader
        return reader

    return register


def dataset_names() -> tuple[str, ...]:
    """The names of data sets: registered ones, and those of entry points."""
    return _KIND.names()


def require_dataset(name: str) -> None:
    """Check a data set's name.

    Raises:
        DataError: it is unknown; names the nearest.
        RecipeError: it is an import path that leads nowhere.
    """
    _KIND.find(name)


def read_source(name: str | None, place: Place, classes: int | None = None) -> Source:
    """Read a data set whole, or find its files.

    Raises:
        DataError: an unknown name, no name and no place or several, files that are missing or damaged (the message
            says how to get them), or a number of classes that nobody tells.
    """
    read = _read(name, place)
    found = replace(read, classes=classes or read.classes, name=read.name or str(name))
    if found.classes < 1:
        raise DataError(
            f"Expected '{found.name}' to say how many classes (or labels, words, numbers to predict) it has, but it "
            "does not; set data.classes"
        )
    return found


def _read(name: str | None, place: Place) -> Source:
    if name is None:
        return _unnamed(place)
    if place.huggingface or place.webdataset:
        raise DataError(f"Expected one source of data, but got name: {name} and {place.described()}; leave one out")
    if is_import_path(name):
        return own_source(name, cast(Any, _KIND.find(name)), place)
    folder = place.folder
    if folder is not None and not folder.is_dir():
        raise DataError(f"Expected the files of '{name}' in the folder {folder}, but there is no such folder")
    return _KIND.find(name)(folder)


def _unnamed(place: Place) -> Source:
    readers: Mapping[str, Callable[[Place], Source]] = {
        "folder": image_folder,
        "huggingface": huggingface_source,
        "webdataset": shard_source,
    }
    given = [kind for kind in readers if getattr(place, kind)]
    if len(given) != 1:
        raise DataError(
            f"Expected exactly one of data.name, folder, huggingface and webdataset, but got {given or 'none'}"
        )
    return readers[given[0]](place)


for _name, _reader in {
    "chain": chain,
    "diabetes": diabetes,
    "imagenet": imagenet,
    "shapes": shapes,
    "shapes-labels": shapes_labels,
    "tags": tags,
    "tiny-imagenet": tiny_imagenet,
}.items():
    source(_name)(_reader)


@source("digits")
def _digits(folder: Path | None) -> Source:
    """1,797 handwritten digits of 8x8 pixels that come with scikit-learn; every fifth of each class is for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    images = Images(pixels, torch.from_numpy(bunch.target).long())
    # A fixed seed: the test set must be the same whatever the run's seed is.
    rest, test = stratified_split(images.labels, share=0.2, seed=0)
    return Source(
        images.take(rest), images.take(test), classes=10, name="digits", channels=1, augmentation=Augment(crop=1)
    )


@source("fashion-mnist")
def _fashion_mnist(folder: Path | None) -> Source:
    """70,000 grey images of clothes, 28x28 pixels (Xiao and others, arXiv 1708.07747), as gzipped IDX files."""
    place = folder or (_DEBIAN_FASHION if _DEBIAN_FASHION.is_dir() else _downloaded_fashion())
    train, test = (
        Images(
            torch.from_numpy(read_idx(place / f"{part}-images-idx3-ubyte.gz", dimensions=3)).unsqueeze(1),
            torch.from_numpy(read_idx(place / f"{part}-labels-idx1-ubyte.gz", dimensions=1)).long(),
        )
        for part in ("train", "t10k")
    )
    for images in (train, test):
        if len(images.pixels) != len(images.labels):
            raise DataError(
                f"Expected as many images as labels in {place}, but got {len(images.pixels)} and {len(images.labels)}; "
                "get the files again"
            )
    return Source(train, test, classes=10, name="fashion-mnist", channels=1, augmentation=Augment(crop=2, flip=True))


def _downloaded_fashion() -> Path:
    from torchvision.datasets import FashionMNIST

    root = _CACHE.expanduser()
    try:
        return Path(FashionMNIST(str(root), download=True).raw_folder)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Expected to download fashion-mnist to {root}, but it failed ({error}); install Debian's package "
            "dataset-fashion-mnist, or set data.folder to a folder with its four .gz files"
        ) from error


@source("cifar10")
def _cifar10(folder: Path | None) -> Source:
    """60,000 colour photographs of 32x32 pixels in 10 classes (Krizhevsky, 2009)."""
    place = folder or _downloaded_cifar("cifar-10", "c32a1d4ab5d03f1284b67883e8d87530") / "cifar-10-batches-bin"
    batches = [read_cifar(place / f"data_batch_{number}.bin", label_bytes=1) for number in range(1, 6)]
    pixels, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    return _cifar((pixels, labels), read_cifar(place / "test_batch.bin", label_bytes=1), classes=10)


@source("cifar100")
def _cifar100(folder: Path | None) -> Source:
    """60,000 colour photographs of 32x32 pixels in 100 classes (Krizhevsky, 2009)."""
    place = folder or _downloaded_cifar("cifar-100", "03b5dce01913d631647c71ecec9e9cb8") / "cifar-100-binary"
    train, test = (read_cifar(place / f"{part}.bin", label_bytes=2) for part in ("train", "test"))
    return _cifar(train, test, classes=100)


Arrays = tuple[np.ndarray, np.ndarray]  # pixels, labels


def _cifar(train: Arrays, test: Arrays, classes: int) -> Source:
    first, second = (
        Images(torch.from_numpy(pixels), torch.from_numpy(labels).long()) for pixels, labels in (train, test)
    )
    return Source(first, second, classes=classes, augmentation=Augment(crop=4, flip=True))


def _downloaded_cifar(name: str, md5: str) -> Path:
    """The folder into which the binary version (the other one is pickled) was unpacked, now or earlier."""
    from torchvision.datasets.utils import download_and_extract_archive

    root = _CACHE.expanduser() / name
    url = f"https://www.cs.toronto.edu/~kriz/{name}-binary.tar.gz"
    try:
        if not any(root.glob("*/*.bin")):
            download_and_extract_archive(url, str(root), md5=md5)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Expected to download {name} to {root}, but it failed ({error}); get {url}, unpack it, and set "
            "data.folder to the folder with its .bin files"
        ) from error
    return root
