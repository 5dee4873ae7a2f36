"""Data sets by name: where their files are, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from icycle.errors import DataError
from icycle.registry import did_you_mean
from icycle.zoo._batches import Augmentation, Images
from icycle.zoo._binary import read_cifar, read_idx
from icycle.zoo._split import stratified_split

__all__ = ["Source", "dataset_names", "read_source", "require_dataset", "source"]

_DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
_CACHE = Path("~/.cache/icycle/data")


@dataclass(frozen=True)
class Source:
    """A data set as it came: training and test images, and what may be done to a training image."""

    train: Images
    test: Images
    classes: int
    augmentation: Augmentation


Reader = Callable[[Path | None], Source]
_READERS: dict[str, Reader] = {}


def source(name: str) -> Callable[[Reader], Reader]:
    """Register a reader of the data set `name`; it gets the user's folder, or None."""

    def register(reader: Reader) -> Reader:
        _READERS[name] = reader
        return reader

    return register


def dataset_names() -> tuple[str, ...]:
    return tuple(_READERS)


def require_dataset(name: str) -> None:
    """Check a data set's name.

    Raises:
        DataError: it is unknown; names the nearest.
    """
    if name not in _READERS:
        raise DataError(f"Expected a data set's name, but got '{name}'; {did_you_mean(name, _READERS)}")


def read_source(name: str, folder: Path | None) -> Source:
    """Read a data set whole.

    Raises:
        DataError: an unknown name, or files that are missing or damaged (the message says how to get them).
    """
    require_dataset(name)
    if folder is not None and not folder.is_dir():
        raise DataError(f"Expected the files of '{name}' in the folder {folder}, but there is no such folder")
    return _READERS[name](folder)


@source("digits")
def _digits(folder: Path | None) -> Source:
    """1,797 handwritten digits of 8x8 pixels that come with scikit-learn; every fifth of each class is for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    images = Images(pixels, torch.from_numpy(bunch.target).long())
    # A fixed seed: the test set must be the same whatever the run's seed is.
    rest, test = stratified_split(images.labels, share=0.2, seed=0)
    return Source(images.take(rest), images.take(test), classes=10, augmentation=Augmentation(crop=1))


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
    return Source(train, test, classes=10, augmentation=Augmentation(crop=2, flip=True))


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
    return Source(first, second, classes=classes, augmentation=Augmentation(crop=4, flip=True))


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
