"""Images in folders, a folder per class; read by torchvision."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.datasets import DatasetFolder
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from icycle.errors import DataError
from icycle.zoo._augment import Augment
from icycle.zoo._loaders import Examples
from icycle.zoo._source import Place, Source

__all__ = ["image_folder", "imagenet", "open_image", "tiny_imagenet", "usual_size"]

_PARTS = {  # in capitals or not
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_LAYOUT = (
    "train/, and if you like val/ and test/, each with a folder of images per class; or a folder of images per class "
    "and nothing else"
)
_PHOTOGRAPHS = Augment(crop="resized", flip=True)
_KINDS = ", ".join(IMG_EXTENSIONS)
_SAMPLE = 64  # images that are looked at to find a common size


def image_folder(place: Place) -> Source:
    """A folder of the user's own, in one of two layouts."""
    root = place.folder
    assert root is not None
    found = _subfolders(root, str(root))
    named = {name.lower(): root / name for name in found}
    parts = {part: next((named[name] for name in names if name in named), None) for part, names in _PARTS.items()}
    if parts["train"] is None:
        if any(parts.values()):
            raise _layout(root, f"{', '.join(found)} and no train/")
        parts = {"train": root, "validation": None, "test": None}
    classes = _classes(parts["train"])  # type: ignore[arg-type]
    read = {part: None if path is None else _part(path, classes) for part, path in parts.items()}
    train = read["train"]
    assert train is not None
    size = usual_size([train.dataset.samples[i][0] for i in _spread(len(train))])  # type: ignore[attr-defined]
    small = size is not None and size < 64
    return Source(
        train,
        read["test"],
        classes=len(classes),
        augmentation=Augment(crop=size // 8, flip=True) if small and size else _PHOTOGRAPHS,
        validation=read["validation"],
        name=root.name or str(root),
        files=True,
        size=size or 224,
    )


def imagenet(folder: Path | None) -> Source:
    """ImageNet (Russakovsky and others, arXiv 1409.0575), 1,000 classes; its published validation set is the test."""
    root = _root(folder, "imagenet", "train/ and val/, each with a folder (n01440764, ...) per class")
    classes = _classes(root / "train")
    train, test = (_part(root / name, classes) for name in ("train", "val"))
    return Source(train, test, classes=len(classes), augmentation=_PHOTOGRAPHS, name="imagenet", files=True, size=224)


def tiny_imagenet(folder: Path | None) -> Source:
    """Tiny ImageNet (Stanford's CS231n), 200 classes of 64x64 pixels, as it is distributed: the classes of its
    validation set, which is the test here, stand in val/val_annotations.txt."""
    layout = "train/CLASS/images/, val/images/ and val/val_annotations.txt"
    root = _root(folder, "tiny-imagenet", layout)
    classes = _classes(root / "train")
    listing = root / "val" / "val_annotations.txt"
    if not listing.is_file():
        raise DataError(f"Expected tiny-imagenet as {layout} in {root}, but there is no {listing}")
    lines = [line.split("\t")[:2] for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    unknown = sorted({each[-1] for each in lines} - set(classes))
    if unknown:
        raise DataError(f"Expected the classes of {root / 'train'} in {listing}, but got {unknown[0]}")
    samples = [(str(root / "val" / "images" / name), classes[label]) for name, label in lines]
    test = Examples(_Files(samples), torch.tensor([label for _, label in samples]))
    flipped = Augment(crop=8, flip=True)
    train = _part(root / "train", classes)
    return Source(train, test, classes=len(classes), augmentation=flipped, name="tiny-imagenet", files=True, size=64)


def open_image(path: str | Path) -> Image.Image:
    """An image file in RGB.

    Raises:
        DataError: it cannot be read; names it.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"Expected an image in {path}, but it cannot be read ({error}); remove or replace it") from None


def usual_size(paths: list[str]) -> int | None:
    """The side, in pixels, of images that are all squares of one size; None where they are not."""
    sizes = set()
    for path in paths:
        try:
            with Image.open(path) as image:
                sizes.add(image.size)
        except OSError:
            continue  # reported when it is read
    (width, height), *others = sizes or {(0, 1)}
    return width if width == height and not others else None


class _Files(torch.utils.data.Dataset[Any]):
    """Image files and their classes."""

    def __init__(self, samples: list[tuple[str, int]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        return open_image(path), label


class _ClassFolders(DatasetFolder):
    """torchvision's folders, with the classes of the training part, some of which may be missing here."""

    def __init__(self, root: Path, classes: dict[str, int]) -> None:
        self._known = classes
        super().__init__(str(root), open_image, is_valid_file=_is_image, allow_empty=True)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        root = Path(directory)
        unknown = sorted({path.name for path in root.iterdir() if _is_class(path)} - set(self._known))
        if unknown:
            raise DataError(
                f"Expected the classes of the training part ({_list(self._known)}) in {directory}, but found a folder "
                f"{unknown[0]}/, too; give the training part such images, or remove it"
            )
        return list(self._known), self._known


def _part(root: Path, classes: dict[str, int]) -> Examples:
    dataset = _ClassFolders(root, classes)
    if not dataset.samples:
        raise DataError(
            f"Expected a folder of images ({_KINDS}) for each class ({_list(classes)}) in {root}, but found no image; "
            f"it holds {_shown(root)}; without {root.name}/, a share of train/ takes its place"
        )
    return Examples(dataset, torch.tensor(dataset.targets))


def _classes(root: Path) -> dict[str, int]:
    """Class name -> number, in the order of the names."""
    names = sorted(path.name for path in root.iterdir() if _is_class(path))
    filled = [name for name in names if any(_is_image(str(path)) for path in (root / name).rglob("*"))]
    if not filled:
        raise DataError(
            f"Expected a folder of images ({_KINDS}) for each class in {root}, but found none with an image; it holds "
            f"{_shown(root)}"
        )
    if len(filled) < len(names):
        empty = _list([f"{name}/" for name in names if name not in filled])
        raise DataError(
            f"Expected images in every folder of {root}, each of which is a class, but found none in {empty}; remove "
            "what is no class"
        )
    if len(names) == 1:
        raise DataError(
            f"Expected at least two classes, a folder of images each, in {root}, but found one: {names[0]}/; "
            "data.folder names the folder above those of the classes"
        )
    return {name: number for number, name in enumerate(names)}


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _is_image(path: str) -> bool:
    """Is it an image's name? Hidden ones (`._1.jpg`) are other systems' notes about images."""
    return has_file_allowed_extension(path, IMG_EXTENSIONS) and not Path(path).name.startswith(".")


def _subfolders(root: Path, shown: str) -> list[str]:
    if not root.is_dir():
        raise DataError(f"Expected a folder {shown} with {_LAYOUT}, but there is no such folder")
    found = sorted(path.name for path in root.iterdir() if _is_class(path))
    if not found:
        raise _layout(root, _shown(root))
    return found


def _root(folder: Path | None, name: str, layout: str) -> Path:
    if folder is None:
        raise DataError(f"Expected data.folder, the folder of '{name}' with {layout}, but got none")
    missing = [part for part in ("train", "val") if not (folder / part).is_dir()]
    if missing:
        raise DataError(
            f"Expected '{name}' as {layout} in {folder}, but there is no {missing[0]}/; found {_shown(folder)}"
        )
    return folder


def _layout(root: Path, found: str) -> DataError:
    return DataError(f"Expected {_LAYOUT}, in {root}, but found {found}")


def _shown(root: Path) -> str:
    return _list(sorted(path.name + "/" * path.is_dir() for path in root.iterdir())) or "nothing"


def _list(names: Collection[str]) -> str:
    return ", ".join(list(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _spread(count: int) -> list[int]:
    """Indices of a sample, spread evenly."""
    return sorted({round(index) for index in torch.linspace(0, count - 1, min(count, _SAMPLE)).tolist()})
