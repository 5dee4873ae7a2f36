"""Checkpoints of a run: model, optimizer, random state and the method's own state; safetensors and JSON only.

A folder holds the last few, each a folder of its own, which is moved there whole, with the checksums of its files:
where the newest is damaged, the one before it serves. In each, `model/` is an artifact (it knows which channels are
gone, so a fresh dense model takes it), and `state.safetensors` holds everything else, with the scalars as JSON in its
header. The learning-rate schedule is a function of the step, so the step is all of its state.

A method that goes on after training (ICE) does so in parts. Each part that is done is a checkpoint in the same folder,
newer than all those of the training.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from icycle import artifacts
from icycle.errors import ArtifactError, TrainingError
from icycle.files import checksum, flush, write_whole
from icycle.training._random import RandomState, random_state, restore_random

__all__ = [
    "Checkpoint",
    "Restored",
    "Stateful",
    "all_damaged",
    "damaged_checkpoints",
    "restore_checkpoint",
    "save_checkpoint",
    "saved_progress",
]

_VERSION = 4
_STATE = "state.safetensors"
_MODEL = "model"
_SEAL = "checksums.json"

State = dict[str, Any]  # JSON values, and tensors at the top level


@dataclass(frozen=True)
class Checkpoint:
    """How far a run had come."""

    epoch: int  # completed ones
    step: int  # completed ones, of the whole run
    accuracy: float | None  # on the validation split after the last completed epoch, in percent
    seconds: dict[str, float]  # by stage
    records: int = 0  # written by then
    batches: int = 0  # of the epoch that is not done
    examples: int = 0  # in those batches
    loss: float = 0.0  # summed over those examples
    part: int = 0  # completed ones of what the method does after training; 0: it trains


@dataclass(frozen=True)
class Restored:
    """A checkpoint that was put back, and the random state at the start of its unfinished epoch."""

    progress: Checkpoint
    epoch_start: RandomState


@runtime_checkable
class Stateful(Protocol):
    """Something whose state belongs into a checkpoint: a flat dict of tensors and JSON values."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


def save_checkpoint(
    folder: Path,
    progress: Checkpoint,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Stateful | None = None,
    *,
    epoch_start: RandomState | None = None,
    keep: int = 2,
) -> None:
    """Write a checkpoint into `folder`, and leave the `keep` - 1 before it there.

    Args:
        epoch_start: the random state at the start of an epoch that is not done.

    Raises:
        TrainingError: it cannot be written (no space, no permission); those before it are whole.
    """
    target, fresh = folder / _name(progress), folder / ".new"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        _write(fresh, progress, model, optimizer, method, epoch_start)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
        flush(folder)
    except (OSError, SafetensorError, ArtifactError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise TrainingError(
            f"Expected to write a checkpoint to {folder}, but it failed: {error}; those before it are whole: make "
            "room, then go on with the run"
        ) from error
    before = [path for path in _all(folder) if path.name < target.name]
    kept = {target, *before[: keep - 1]}  # what lies after it belongs to a course that was given up
    for path in set(_all(folder)) - kept:
        shutil.rmtree(path, ignore_errors=True)


def restore_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Stateful | None = None,
    *,
    pruned: bool = False,
) -> Restored | None:
    """Put model, optimizer, random state and method back, from the newest whole checkpoint; None where there is none.

    Args:
        model: a fresh dense one; it loses the channels that the checkpoint's has lost.
        optimizer: a new one on `model`'s parameters; it is rewired to the ones that remain.
        pruned: `model` has lost the same channels by itself; its parameters stay, and take the values.

    Raises:
        TrainingError: all checkpoints are damaged, of another version, or do not fit the optimizer.
        ArtifactError: the model in it is damaged, or of another architecture.
    """
    found = newest_checkpoint(folder)
    if found is None:
        return None
    header, tensors = _read(found / _STATE)
    values = header["scalars"] | tensors
    (_copy_into if pruned else _restore_model)(found / _MODEL, model, optimizer)
    _restore_optimizer_state(model, optimizer, _under("optimizer.", values))
    if method is not None:
        method.load_state_dict(_under("method.", values))
    restore_random(_under("random.", tensors))
    return Restored(Checkpoint(**header["progress"]), _under("epoch_start.", tensors))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is as it was written; None where there never was one.

    Raises:
        TrainingError: there are some, and all of them are damaged, or of another version.
    """
    found, whole = _all(folder), _whole(folder)
    if found and whole is None:
        raise TrainingError(
            f"Expected a checkpoint in {folder}, but it is damaged ({_damage(found[0])}), as are those before it; "
            "start the run anew"
        )
    return whole


def all_damaged(folder: Path) -> bool:
    """Are there checkpoints in `folder`, and none of them is whole?"""
    return bool(_all(folder)) and _whole(folder) is None


def damaged_checkpoints(folder: Path) -> dict[str, str]:
    """What is wrong with each checkpoint that is newer than the newest whole one."""
    damaged = {}
    for path in _all(folder):
        if not (words := _damage(path)):
            break
        damaged[str(path)] = words
    return damaged


def saved_progress(folder: Path) -> Checkpoint | None:
    """How far the run had come that left its checkpoints in `folder`; None where there are none.

    Raises:
        TrainingError: all are damaged, or of another version.
    """
    found = newest_checkpoint(folder)
    return None if found is None else Checkpoint(**_read(found / _STATE)[0]["progress"])


def _whole(folder: Path) -> Path | None:
    """The newest checkpoint that is as it was written."""
    _require_this_version(folder)
    return next((path for path in _all(folder) if not _damage(path)), None)


def _name(progress: Checkpoint) -> str:
    """Names in the order of time; at the last step of an epoch there may be one without and one with its end."""
    return f"part-{progress.part:05d}-step-{progress.step:09d}-epoch-{progress.epoch:05d}"


def _all(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    return sorted(folder.glob("part-*-step-*-epoch-*"), reverse=True)


def _require_this_version(folder: Path) -> None:
    """Those of version 1 lay in the folder itself, those of versions 2 and 3 had no parts."""
    if (folder / _STATE).exists() or any(folder.glob("step-*-epoch-*")):
        raise _other_version(folder, "1" if (folder / _STATE).exists() else "2 or 3")


def _other_version(path: Path, version: object) -> TrainingError:
    return TrainingError(
        f"Expected a checkpoint of version {_VERSION} in {path}, but got version {version}, which another version of "
        "icycle wrote; go on with that one, or start the run anew in another folder (--output)"
    )


def _write(
    folder: Path,
    progress: Checkpoint,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Stateful | None,
    epoch_start: RandomState | None,
) -> None:
    artifacts.save(model, folder / _MODEL)
    tensors, scalars = _split(method.state_dict() if method is not None else {}, "method.")
    optimizer_tensors, optimizer_scalars = _split(_optimizer_state(model, optimizer), "optimizer.")
    header = {"version": _VERSION, "progress": asdict(progress), "scalars": scalars | optimizer_scalars}
    random, _ = _split(random_state(), "random.")
    start, _ = _split(epoch_start or {}, "epoch_start.")
    save_file(tensors | optimizer_tensors | random | start, folder / _STATE, metadata={"icycle": json.dumps(header)})
    flush(folder / _STATE)
    write_whole(folder / _SEAL, json.dumps({name: checksum(folder / name) for name in _files(folder)}))


def _files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != _SEAL)
    return sorted(str(path.relative_to(folder)) for path in found)


def _damage(checkpoint: Path) -> str:
    """What differs from what was written; empty where nothing does."""
    try:
        seal = json.loads((checkpoint / _SEAL).read_text(encoding="utf-8"))
        changed = [name for name, digest in seal.items() if checksum(checkpoint / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return f"{', '.join(changed)} changed since it was written" if changed else ""


def _split(state: State, prefix: str) -> tuple[dict[str, torch.Tensor], State]:
    """Tensors and scalars of a flat state, their keys prefixed; safetensors wants unshared copies."""
    tensors = {
        prefix + key: value.detach().clone().contiguous()
        for key, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    scalars = {prefix + key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}
    return tensors, scalars


def _under(prefix: str, values: State) -> State:
    return {key[len(prefix) :]: value for key, value in values.items() if key.startswith(prefix)}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("icycle", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise TrainingError(
            f"Expected a checkpoint in {path}, but it is damaged ({error}); start the run anew"
        ) from error
    if header.get("version") != _VERSION:
        raise _other_version(path, header.get("version"))
    return header, tensors


def _optimizer_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """The optimizer's state by parameter name, which outlives the parameter objects: `<parameter>|<key>`."""
    return {
        f"{name}|{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_model(artifact: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the model; the optimizer's groups keep their parameters by name, as removed channels make new objects."""
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    names = [[name_of[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    artifacts.load(artifact, model)
    parameters = dict(model.named_parameters())
    for group, group_names in zip(optimizer.param_groups, names, strict=True):
        group["params"] = [parameters[name] for name in group_names]
    optimizer.state.clear()


@torch.no_grad()
def _copy_into(artifact: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give a model of the same shapes the saved values; what the optimizer knows of its parameters goes.

    A tensor that has them is not written to: what was worked out from it still holds.
    """
    saved = load_file(artifact / "model.safetensors")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in saved and not torch.equal(tensor, value := saved[name].to(tensor.device)):
            tensor.copy_(value)
    optimizer.state.clear()


def _restore_optimizer_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    parameters = dict(model.named_parameters())
    for full_key, value in state.items():
        name, key = full_key.rsplit("|", 1)
        if name not in parameters:
            raise TrainingError(f"Expected a checkpoint of this model, but it holds optimizer state of '{name}'")
        parameter = parameters[name]
        if isinstance(value, torch.Tensor):
            # A step counter stays where the optimizer made it; what is shaped like the weight goes beside the weight.
            value = value.to(parameter.device) if value.shape == parameter.shape else value
        optimizer.state[parameter][key] = value
