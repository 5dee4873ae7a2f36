"""A pruned model as a folder: its tensors in safetensors, and in JSON what tells their shapes to a fresh model."""

from __future__ import annotations

import operator
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from icycle.artifacts._derived import check_attributes
from icycle.artifacts._description import VERSION, Description, read_description
from icycle.artifacts._edits import edit_records, read_edits
from icycle.errors import ArtifactError, SurgeryError
from icycle.files import checksum, flush, for_all
from icycle.surgery import (
    Draft,
    Place,
    changed_attributes,
    commit,
    inputs_from,
    is_channels_last,
    remember_inputs,
    remembered_inputs,
    successor,
    undoing,
)
from icycle.tracing import is_sharded, named_tensors

__all__ = ["load", "save", "saved_inputs", "saved_shapes"]

_TENSORS = "model.safetensors"
_STRUCTURE = "structure.json"
_HEADER = 2**27  # more than safetensors itself allows its header
_WIDEST = 16  # bytes of an element
_DAMAGED = (safetensors.SafetensorError, KeyError, ValueError, RuntimeError)

Attributes = dict[str, dict[str, int | list[int | None]]]


def save(model: nn.Module, path: str | Path) -> Path:
    """Write `model` to the folder `path` (made if missing); returns the folder. Nothing is pickled.

    The files are written beside the folder and moved there whole. Raises ArtifactError where the folder holds a model
    already, or cannot be written (no space, no permission); nothing is left behind then.
    """
    folder = Path(path)
    if (folder / _STRUCTURE).exists() or (folder / _TENSORS).exists():
        raise ArtifactError(f"Expected {folder} to hold no model yet, but it does. Choose another folder or remove it.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write(model, fresh)
            _move(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(
            f"Expected to write a model to {folder}, but it failed: {error}; nothing was left there"
        ) from error
    return folder


def _write(model: nn.Module, folder: Path) -> None:
    tensors = dict(named_tensors(model))
    if any(is_sharded(tensor) for tensor in tensors.values()):
        raise ArtifactError(
            f"Expected whole tensors to save, but {type(model).__name__} is sharded over processes. Prune a model that "
            "is whole in the same way, load into it what torch.distributed.checkpoint.state_dict.get_model_state_dict "
            "gives with StateDictOptions(full_state_dict=True), and save that one. Nothing was written."
        )
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, folder / _TENSORS)
    description = Description(
        format="icycle model",
        version=VERSION,
        sha256=checksum(folder / _TENSORS),
        model=f"{type(model).__module__}.{type(model).__qualname__}",
        attributes=_attributes(model),
        edits=edit_records(model),
        channels_last=[name for name, tensor in tensors.items() if is_channels_last(tensor)],
        inputs=remembered_inputs(model),
    )
    (folder / _STRUCTURE).write_text(description.sealed())
    for_all(folder / _TENSORS)
    for name in (_TENSORS, _STRUCTURE):
        flush(folder / name)


def _move(fresh: Path, folder: Path) -> None:
    """Give `fresh` its name; into a folder that is there already, the description goes last."""
    if not folder.exists():
        for_all(fresh)
        fresh.rename(folder)
    else:
        try:
            for name in (_TENSORS, _STRUCTURE):
                os.replace(fresh / name, folder / name)
        except BaseException:
            for name in (_STRUCTURE, _TENSORS):
                (folder / name).unlink(missing_ok=True)
            raise
    flush(folder.parent)


def _attributes(model: nn.Module) -> Attributes:
    """What the attributes that removals have changed are now."""
    modules, found = dict(model.named_modules()), Attributes()
    for path, name, item in changed_attributes(model):
        value = vars(modules[path]).get(name)
        inside = item is not None and isinstance(value, (tuple, list)) and item < len(value)
        size = value[item] if inside and isinstance(value, (tuple, list)) and item is not None else value
        if type(size) is not int or size < 1:
            raise ArtifactError(
                f"Expected {path or 'the model'}.{name} to be the size that a removal left there, but it is "
                f"{value!r}. Put it back before saving."
            )
        own = found.setdefault(path, {})
        if item is None:
            own[name] = size
        elif isinstance(value, (tuple, list)):
            items = own.setdefault(name, [None] * len(value))
            assert isinstance(items, list)
            items[item] = size
    return found


def load(path: str | Path, model: nn.Module, *, example_inputs: Any = None) -> nn.Module:
    """Shrink the fresh, unpruned `model` in place to the one saved in `path` and give it the saved values.

    Only sizes become smaller, and only the kinds of edit that a removal makes are made in code. Where integer
    attributes of modules have to follow, the fresh model is traced first, and they must be those that a removal which
    gives the saved shapes sets. That is done on inputs shaped like those that the saved model was traced on, or on
    `example_inputs` (as for `icycle.trace`), for code that needs real ones. Buffers that are not persistent come back
    in whatever shape they were saved: the model's code may have made them anew as it ran.

    Raises ArtifactError where the folder is missing, damaged, of another version, or of another architecture; the model
    is then as it was.
    """
    folder = Path(path)
    description = read_description(_file(folder, _STRUCTURE))
    tensors = _read_tensors(folder, description, model)
    _check_architecture(folder, description, tensors, model)
    old = dict(named_tensors(model))
    shapes = {name: _left(tensor.shape, tensors.get(name, tensor).shape) for name, tensor in old.items()}
    attributes = _changes(description, shapes, model)
    edits = read_edits(description.edits, model)
    if attributes:
        check_attributes(model, _inputs(folder, description, example_inputs), shapes, attributes, str(folder))
    try:
        with undoing() as undo:
            _make(tensors, model, undo)
            old = dict(named_tensors(model))
            new = {
                name: successor(name, old[name], _laid_out(tensor, old[name], name in description.channels_last))
                for name, tensor in tensors.items()
            }
            draft = Draft(model)
            draft.exchange(old, new, attributes)
            draft.rewrite(edits)
            remember_inputs(draft.model, description.inputs)
            commit(list(draft.swaps()))
    except SurgeryError as error:
        raise ArtifactError(f"{error} (Loading {folder}; the model is as it was.)") from error
    return model


def _inputs(folder: Path, description: Description, example_inputs: Any) -> Any:
    """On which the fresh model is traced."""
    if example_inputs is not None:
        return example_inputs
    if description.inputs is None:
        raise ArtifactError(
            f"Expected {folder} to say on what inputs its model was traced, but it does not: it is a part of a model, "
            "or the inputs hold more than tensors. Give them to icycle.load (example_inputs=...)."
        )
    try:
        return inputs_from(description.inputs)
    except SurgeryError as error:
        raise ArtifactError(f"{error} (Loading {folder}; the model is as it was.)") from error


def _file(folder: Path, name: str) -> Path:
    """A plain file of that name, in the folder itself."""
    file = folder / name
    if not file.is_file():
        raise ArtifactError(f"Expected a saved model in {folder}, but there is no {name}. Save one with icycle.save.")
    if file.resolve().parent != folder.resolve():
        raise ArtifactError(f"Expected {file} to lie in that folder, but it is a link to elsewhere. Copy the file.")
    return file


def _read_tensors(folder: Path, description: Description, model: nn.Module) -> dict[str, torch.Tensor]:
    file = _file(folder, _TENSORS)
    largest = _HEADER + _WIDEST * sum(tensor.numel() for _, tensor in named_tensors(model))
    if file.stat().st_size > largest:
        raise ArtifactError(
            f"Expected {file} to be no larger than the unpruned model can be, but it is. If it makes buffers as "
            "it runs, run the unpruned one before loading."
        )
    if checksum(file) != description.sha256:
        raise ArtifactError(f"Expected {file} to have the checksum in {_STRUCTURE}, but it was damaged or exchanged.")
    try:
        return load_file(file)
    except _DAMAGED as error:
        raise ArtifactError(f"Expected {file} to be a safetensors file, but it is damaged ({error}).") from error


def saved_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors saved in the folder `path`; raises ArtifactError where there are none."""
    file = _file(Path(path), _TENSORS)
    try:
        with safetensors.safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except _DAMAGED as error:
        raise ArtifactError(f"Expected {file} to be a safetensors file, but it is damaged ({error}).") from error


def saved_inputs(path: str | Path) -> Any:
    """Inputs shaped like those that the model saved in the folder `path` was traced on; None where it does not tell."""
    folder = Path(path)
    description = read_description(_file(folder, _STRUCTURE))
    return None if description.inputs is None else _inputs(folder, description, None)


def _check_architecture(
    folder: Path, description: Description, tensors: Mapping[str, torch.Tensor], model: nn.Module
) -> None:
    """A fresh model has the same tensors, of the same kinds of numbers, none smaller in any dimension; but for buffers
    that are not persistent."""
    whole, own = dict(named_tensors(model)), _not_persistent(model)
    hint = f"Build the unpruned {description.model} as it was before pruning, and load into that."
    odd = sorted((whole.keys() ^ tensors.keys()) - own)
    if odd:
        raise ArtifactError(
            f"Expected the tensors of {description.model} saved in {folder}, but {type(model).__name__} differs in "
            f"{len(odd)} names (first: {odd[0]!r}). {hint}"
        )
    for name, tensor in whole.items():
        if name in own:
            continue
        shape, saved = tensor.shape, tensors[name].shape
        if len(saved) != len(shape) or any(not 0 < a <= b for a, b in zip(saved, shape, strict=True) if b):
            raise ArtifactError(
                f"Expected {name} to be at least {list(saved)} as saved in {folder}, but it is {list(shape)}. {hint}"
            )
        if _kind(tensor) != _kind(tensors[name]):
            raise ArtifactError(
                f"Expected {name} in {folder} to be like {tensor.dtype}, but it is {tensors[name].dtype}. {hint}"
            )
    odd = [name for name in description.channels_last if name not in tensors or tensors[name].dim() != 4]
    if odd:
        raise ArtifactError(f"Expected images' weights to have channels last, but {odd[0][:80]!r} is none. {hint}")


def _not_persistent(model: nn.Module) -> set[str]:
    """The buffers, made or not, that no state dict has: code may make them, or make them anew, whenever it runs."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }


def _kind(tensor: torch.Tensor) -> Any:
    return (
        tensor.is_floating_point(),
        tensor.is_complex(),
        tensor.dtype if not tensor.is_floating_point() and not tensor.is_complex() else None,
    )


def _left(shape: torch.Size, saved: torch.Size) -> torch.Size:
    """What a removal has left of a shape; what grew, or has other dimensions, the model's own code made anew."""
    return torch.Size(map(min, shape, saved)) if len(shape) == len(saved) else shape


def _changes(description: Description, shapes: Mapping[str, torch.Size], model: nn.Module) -> dict[Place, int]:
    """The attributes to set. They must be there, be ints, and become smaller, in a model whose tensors do."""
    modules = dict(model.named_modules())
    smaller = any(tensor.shape != shapes[name] for name, tensor in named_tensors(model))
    changes: dict[Place, int] = {}
    for path, attributes in description.attributes.items():
        for name, value in attributes.items():
            current = vars(modules[path]).get(name) if path in modules else None
            listed = isinstance(value, list)
            old = list(current) if listed and isinstance(current, (tuple, list)) else [current]
            new = value if isinstance(value, list) else [value]
            pairs = [(a, b) for a, b in zip(old, new, strict=False) if b is not None]
            if (
                listed != isinstance(current, (tuple, list))
                or len(old) != len(new)
                or not smaller
                or any(type(a) is not int or not 1 <= b <= a for a, b in pairs)
            ):
                raise ArtifactError(
                    f"Expected {path[:80] or 'the model'} to have a size {name[:80]!r} of at least {value}, but it has "
                    f"{current!r:.80}, or no tensor is smaller. Build the unpruned {description.model} "
                    "and load into that."
                )
            changes.update({(path, name, place if listed else None): b for place, b in enumerate(new) if b is not None})
    return changes


def _make(tensors: Mapping[str, torch.Tensor], model: nn.Module, undo: list[Callable[[], None]]) -> None:
    """Give the fresh model those buffers that its code has not made yet."""
    whole = dict(named_tensors(model))
    for name in tensors.keys() - whole.keys():
        path, _, key = name.rpartition(".")
        buffers = model.get_submodule(path)._buffers
        undo.append(partial(operator.setitem, buffers, key, buffers[key]))
        buffers[key] = tensors[name].to(next(iter(whole.values()), tensors[name]).device)


def _laid_out(saved: torch.Tensor, old: torch.Tensor, channels_last: bool) -> torch.Tensor:
    data = saved.clone().to(old.device)  # the file's tensors lie at any address, and fast kernels round by alignment
    return data.to(memory_format=torch.channels_last) if channels_last else data
