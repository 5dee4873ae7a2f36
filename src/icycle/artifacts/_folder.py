"""A pruned model as a folder: its tensors in safetensors, and in JSON what tells their shapes to a fresh model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from icycle.errors import ArtifactError, SurgeryError
from icycle.surgery import exchange, rewrite, stand_in, undoing
from icycle.tracing import STAND_INS, Edit, edits_of, named_tensors

__all__ = ["load", "save"]

_VERSION = 1
_TENSORS = "model.safetensors"
_STRUCTURE = "structure.json"

Attributes = dict[str, dict[str, Any]]


def save(model: nn.Module, path: str | Path) -> Path:
    """Write `model` to the folder `path` (made if missing); returns the folder. Nothing is pickled.

    Raises ArtifactError where the folder holds a model already.
    """
    folder = Path(path)
    if (folder / _STRUCTURE).exists() or (folder / _TENSORS).exists():
        raise ArtifactError(f"Expected {folder} to hold no model yet, but it does. Choose another folder or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(named_tensors(model))
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, folder / _TENSORS)
    description = {
        "format": "icycle model",
        "version": _VERSION,
        "sha256": _checksum(folder / _TENSORS),
        "model": _class_name(model),
        "attributes": _attributes(model),
        "stand_ins": [path for path, module in model.named_modules() if type(module) in STAND_INS.values()],
        "edits": {path: [asdict(edit) for edit in edits] for path, edits in _all_edits(model)},
        "channels_last": [name for name, tensor in tensors.items() if _is_channels_last(tensor)],
    }
    (folder / _STRUCTURE).write_text(json.dumps(description, indent=1))
    return folder


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Shrink the fresh, unpruned `model` in place to the one saved in `path` and give it the saved values.

    Raises ArtifactError where the folder is missing, damaged, of another version, or of another architecture; the model
    is then as it was."""
    folder = Path(path)
    description = _read_description(folder)
    tensors = _read_tensors(folder, description)
    _check_architecture(folder, description, tensors, model)
    edits = _read_edits(folder, description["edits"])
    old = dict(named_tensors(model))
    new = {name: _like(old[name], tensor, name in description["channels_last"]) for name, tensor in tensors.items()}
    modules = dict(model.named_modules())
    try:
        with undoing() as undo:
            for name in description["stand_ins"]:
                if type(modules[name]) in STAND_INS:
                    stand_in(modules[name], undo)
            exchange(model, new, _changes(description["attributes"], model), undo)
            rewrite(model, edits, undo)
    except SurgeryError as error:
        raise ArtifactError(f"{error} (Loading {folder}; the model is as it was.)") from error
    return model


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / _STRUCTURE
    if not file.is_file():
        raise ArtifactError(
            f"Expected a saved model in {folder}, but there is no {_STRUCTURE}. Save one with icycle.save."
        )
    try:
        description = json.loads(file.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtifactError(f"Expected JSON in {file}, but it is damaged ({error}). Save the model again.") from error
    if not isinstance(description, dict) or description.get("format") != "icycle model":
        raise ArtifactError(f"Expected {file} to describe a model saved by icycle, but it does not.")
    if description.get("version") != _VERSION:
        raise ArtifactError(
            f"Expected version {_VERSION} in {file}, but got {description.get('version')}. "
            "Use the icycle that saved it."
        )
    missing = {"sha256", "model", "attributes", "stand_ins", "edits", "channels_last"} - description.keys()
    if missing:
        raise ArtifactError(f"Expected {sorted(missing)} in {file}, but they are missing. Save the model again.")
    return description


def _all_edits(model: nn.Module) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    return ((path, edits) for path, module in model.named_modules() if (edits := edits_of(module)))


def _read_edits(folder: Path, saved: Mapping[str, Any]) -> dict[str, tuple[Edit, ...]]:
    try:
        return {
            path: tuple(
                Edit(tuple(edit["functions"]), tuple(edit["span"]), edit["number"] + 0, edit["digest"], edit["keyword"])
                for edit in edits
            )
            for path, edits in saved.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"Expected edits of code in {folder / _STRUCTURE}, but they are damaged ({error})."
        ) from None


def _read_tensors(folder: Path, description: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    file = folder / _TENSORS
    if not file.is_file():
        raise ArtifactError(f"Expected {file}, but it is missing. Save the model again.")
    if _checksum(file) != description["sha256"]:
        raise ArtifactError(f"Expected {file} to have the checksum in {_STRUCTURE}, but it was damaged or exchanged.")
    try:
        return load_file(file)
    except safetensors.SafetensorError as error:
        raise ArtifactError(f"Expected {file} to be a safetensors file, but it is damaged ({error}).") from error


def _check_architecture(
    folder: Path, description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], model: nn.Module
) -> None:
    """A fresh model has the same tensors, none smaller in any dimension, and the same attributes."""
    shapes = {name: tensor.shape for name, tensor in named_tensors(model)}
    hint = f"Build the unpruned {description['model']} as it was before pruning, and load into that."
    if shapes.keys() != tensors.keys():
        odd = sorted(shapes.keys() ^ tensors.keys())
        raise ArtifactError(
            f"Expected the tensors of {description['model']} saved in {folder}, but {type(model).__name__} differs in "
            f"{len(odd)} names (first: {odd[0]!r}). {hint}"
        )
    for name, shape in shapes.items():
        saved = tensors[name].shape
        if len(saved) != len(shape) or any(small > large for small, large in zip(saved, shape, strict=True)):
            raise ArtifactError(
                f"Expected {name} to be at least {list(saved)} as saved in {folder}, but it is {list(shape)}. {hint}"
            )
    modules = dict(model.named_modules())
    for path, attributes in description["attributes"].items():
        missing = [name for name in attributes if path not in modules or name not in vars(modules[path])]
        if missing:
            raise ArtifactError(
                f"Expected {path or 'the model'} to have the attribute {missing[0]!r}, but it does not. {hint}"
            )


def _attributes(model: nn.Module) -> Attributes:
    """The integer attributes of every module, also in tuples and lists: they tell its shape."""
    found: Attributes = {}
    for path, module in model.named_modules():
        own = {name: value for name, value in vars(module).items() if _is_integral(value)}
        if own:
            found[path] = own
    return found


def _is_integral(value: Any) -> bool:
    if type(value) in (tuple, list, torch.Size):
        return len(value) > 0 and all(type(item) is int for item in value)
    return type(value) is int


def _changes(saved: Mapping[str, Mapping[str, Any]], model: nn.Module) -> dict[tuple[str, str, int | None], int]:
    modules = dict(model.named_modules())
    changes: dict[tuple[str, str, int | None], int] = {}
    for path, attributes in saved.items():
        for name, value in attributes.items():
            if isinstance(value, list):
                current = vars(modules[path])[name]
                if len(current) == len(value):
                    changes.update({(path, name, place): item for place, item in enumerate(value)})
            else:
                changes[path, name, None] = value
    return changes


def _like(old: torch.Tensor, new: torch.Tensor, channels_last: bool) -> torch.Tensor:
    data = new.clone().to(old.device)  # the file's tensors lie at any address, and fast kernels round by alignment
    if channels_last:
        data = data.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(data, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else data


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _class_name(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return (
            hashlib.file_digest(stream, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _digest(stream.read())
        )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
