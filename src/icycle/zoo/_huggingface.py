"""Hugging Face data sets, from the hub or from local files; read by `datasets`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from icycle.errors import DataError
from icycle.zoo._augment import Augment
from icycle.zoo._loaders import Examples
from icycle.zoo._source import Place, Source

__all__ = ["huggingface_source"]

_FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".jsonl": "json", ".json": "json"}
_PARTS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_LABELS = ("label", "labels", "target", "fine_label", "class")
_IMAGES = ("image", "img")


def huggingface_source(place: Place) -> Source:
    """Parts, columns and classes of a data set.

    Options: `image` and `label` name columns (found by their usual names and types when omitted); the others go to
    `datasets.load_dataset`. With an image column an example is (image, label); with numeric columns alone it is
    (features, label), a vector; a column `labels` of sequences makes it a mapping of all its columns.
    """
    datasets = _import_datasets()
    options = dict(place.options or {})
    image, label = options.pop("image", None), options.pop("label", None)
    assert place.huggingface is not None
    found = _loaded(datasets, place.huggingface, options)
    parts = {part: next((found[name] for name in names if name in found), None) for part, names in _PARTS.items()}
    train = parts["train"]
    if train is None:
        raise DataError(f"Expected a split 'train' of {place.huggingface}, but it has {', '.join(found)}")
    columns = _columns(datasets, train, image, label, place.huggingface)
    read = {part: None if each is None else columns.examples(each) for part, each in parts.items()}
    assert read["train"] is not None
    return Source(
        read["train"],
        read["test"],
        columns.classes(train),
        augmentation=Augment(crop="resized", flip=True),
        validation=read["validation"],
        name=place.huggingface,
        images=columns.image is not None,
        files=columns.image is not None,
        size=columns.size(train),
    )


def _loaded(datasets: Any, path: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        local = Path(path)
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            found = datasets.load_from_disk(path)
        elif local.exists():
            kind, files = _files(local)
            found = datasets.load_dataset(kind, data_files=files, **options)
        else:
            found = datasets.load_dataset(path, **options)
    except DataError:
        raise
    except Exception as error:  # of the library, the network and the file formats
        raise DataError(
            "Expected data.huggingface to be a data set of the hub that can be reached, or a local file or folder of "
            f"{', '.join(_FORMATS)}, but '{path}' gave {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    return found if isinstance(found, Mapping) else {"train": found}


def _files(path: Path) -> tuple[str, dict[str, list[str]]]:
    """The format, and part -> files: a file's name begins with its part (train-00000.parquet); else it is training."""
    files = sorted(each for each in (path.rglob("*") if path.is_dir() else [path]) if each.suffix in _FORMATS)
    formats = {_FORMATS[each.suffix] for each in files}
    if len(formats) != 1:
        names = sorted(each.name for each in path.iterdir())[:5] if path.is_dir() else [path.name]
        raise DataError(
            f"Expected files of one of the kinds {', '.join(_FORMATS)} in {path}, such as train.parquet and "
            f"test.parquet, but found {', '.join(names) or 'nothing'}"
        )
    parts: dict[str, list[str]] = {}
    for each in files:
        name = each.relative_to(path).as_posix() if path.is_dir() else each.name
        part = next((part for part, names in _PARTS.items() if name.startswith(names)), "train")
        parts.setdefault(part, []).append(str(each))
    return formats.pop(), parts


class _Columns:
    """Which columns are inputs, and which is the target."""

    def __init__(self, image: str | None, inputs: Sequence[str], label: str, names: Sequence[str] | None) -> None:
        self.image, self.inputs, self.label = image, inputs, label
        self._names = names  # of the classes, where labels are words

    def examples(self, dataset: Any) -> Examples:
        labels = self._numbers(dataset)
        view = dataset if self.image else dataset.with_format("torch", columns=[*self.inputs, self.label])
        return Examples(_Rows(view, self), labels)

    def classes(self, dataset: Any) -> int:
        named = getattr(dataset.features[self.label], "names", None) or self._names
        if named:
            return len(named)
        labels = self._numbers(dataset)
        return 1 if labels is None else int(labels.max()) + 1

    def size(self, dataset: Any) -> int | None:
        """The side of images that are squares of one size, by the first few; 224 else."""
        if self.image is None:
            return None
        sizes = {dataset[index][self.image].size for index in range(min(len(dataset), 16))}
        width, height = next(iter(sizes))
        return width if len(sizes) == 1 and width == height else 224

    def target(self, value: Any) -> Any:
        return self._names.index(value) if self._names and isinstance(value, str) else value

    def _numbers(self, dataset: Any) -> torch.Tensor | None:
        """Every example's class; None where the target is no class."""
        values = [self.target(value) for value in dataset[self.label]]
        whole = all(isinstance(value, int) for value in values)
        return torch.tensor(values, dtype=torch.int64) if whole else None


class _Rows(Dataset[Any]):
    """A data set's rows as examples."""

    def __init__(self, dataset: Any, columns: _Columns) -> None:
        self._dataset, self._columns = dataset, columns

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        row, columns = self._dataset[index], self._columns
        if columns.image is not None:
            return row[columns.image].convert("RGB"), columns.target(row[columns.label])
        if columns.label == "labels":
            return row
        target = row[columns.label]
        return torch.stack([row[name].float() for name in columns.inputs]), target


def _columns(datasets: Any, dataset: Any, image: str | None, label: str | None, path: str) -> _Columns:
    features = dataset.features
    image = image or next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), None)
    label = label or next((name for name in _LABELS if name in features), None)
    if label is None or label not in features or (image is not None and image not in features):
        raise DataError(
            f"Expected the columns of {path} to hold a label, but they are {', '.join(features)}; name it in "
            "data.options.label (and the images in data.options.image)"
        )
    inputs = [name for name in features if name not in (label, image)]
    words = sorted(set(dataset[label])) if getattr(features[label], "dtype", "") == "string" else None
    if image is None and words is not None:
        raise DataError(f"Expected numbers in the column '{label}' of {path}, but got words, such as '{words[0]}'")
    return _Columns(image, inputs, label, words)


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "Expected datasets to be installed, which data.huggingface needs; run: pip install 'icycle[huggingface]'"
        ) from error
    datasets.disable_progress_bars()
    return datasets
