"""A data set as it came, and where it was said to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icycle.zoo._augment import Augment
from icycle.zoo._batches import Images
from icycle.zoo._loaders import Batches, Examples

__all__ = ["Part", "Place", "Source"]

Part = Images | Examples | Batches


@dataclass(frozen=True)
class Source:
    """A data set as it came: its parts, and what may be done to a training image.

    Where there is no validation or test part, one is carved from the training part.
    """

    train: Part
    test: Part | None
    classes: int  # 0: unknown
    augmentation: Augment = field(default_factory=Augment)
    validation: Part | None = None
    name: str = ""
    images: bool = True  # examples are images: they are resized, augmented and normalised
    files: bool = False  # examples are read from files, which takes time: worker processes do it
    channels: int = 3
    size: int | None = None  # pixels a side that images are brought to, unless told otherwise


@dataclass(frozen=True)
class Place:
    """What the user says about where the data is; see `load_data`."""

    folder: Path | None = None
    huggingface: str | None = None
    webdataset: Mapping[str, str] | None = None
    options: Mapping[str, Any] | None = None
    batch_size: int = 1
    seed: int = 0

    def described(self) -> str:
        """For error messages."""
        given = {"folder": self.folder, "huggingface": self.huggingface, "webdataset": self.webdataset}
        return ", ".join(f"{key}: {value}" for key, value in given.items() if value)
