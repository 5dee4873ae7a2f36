"""Checkpoints of a run: model, optimizer, random state and the method's own state; safetensors and JSON only.

A checkpoint is a folder: `model/` is an artifact (it knows which channels are gone, so a fresh dense model takes it),
and `state.safetensors` holds everything else, with the scalars as JSON in its header. The learning-rate schedule is a
function of the step, so the step is all of its state.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from icycle import artifacts
from icycle.errors import TrainingError

__all__ = ["Checkpoint", "Stateful", "completed_epochs", "restore_checkpoint", "save_checkpoint"]

_VERSION = 1
_STATE = "state.safetensors"
_MODEL = "model"

State = dict[str, Any]  # JSON values, and tensors at the top level


@dataclass(frozen=True)
class Checkpoint:
    """How far a run had come: completed epochs and steps, validation accuracy in percent, seconds by stage."""

    epoch: int
    step: int
    accuracy: float
    seconds: dict[str, float]


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
) -> None:
    """Write a checkpoint; the one that was there stays whole until the new one is.

    Raises:
        TrainingError, ArtifactError: it cannot be written (no space, no permission).
    """
    fresh, old = _beside(folder, ".new"), _beside(folder, ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    artifacts.save(model, fresh / _MODEL)

    tensors, scalars = _split(method.state_dict() if method is not None else {}, "method.")
    optimizer_tensors, optimizer_scalars = _split(_optimizer_state(model, optimizer), "optimizer.")
    header = {"version": _VERSION, "progress": asdict(progress), "scalars": scalars | optimizer_scalars}
    everything = tensors | optimizer_tensors | _random_state()
    try:
        save_file(everything, fresh / _STATE, metadata={"icycle": json.dumps(header)})
    except SafetensorError as error:  # no space
        raise TrainingError(f"Expected to write a checkpoint to {folder}, but it failed: {error}") from error

    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def restore_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, method: Stateful | None = None
) -> Checkpoint | None:
    """Put model, optimizer, random state and method back; None where there is no checkpoint.

    Args:
        model: a fresh dense one; it loses the channels that the checkpoint's has lost.
        optimizer: a new one on `model`'s parameters; it is rewired to the ones that remain.

    Raises:
        TrainingError: the checkpoint is damaged, of another version, or does not fit the optimizer.
        ArtifactError: the model in it is damaged, or of another architecture.
    """
    found = _find(folder)
    if found is None:
        return None
    header, tensors = _read(found / _STATE)
    values = header["scalars"] | tensors
    _restore_model(found / _MODEL, model, optimizer)
    _restore_optimizer_state(model, optimizer, _under("optimizer.", values))
    if method is not None:
        method.load_state_dict(_under("method.", values))
    _restore_random(tensors)
    return Checkpoint(**header["progress"])


def completed_epochs(folder: Path) -> int:
    """How many epochs the checkpoint in `folder` covers; 0 where there is none.

    Raises:
        TrainingError: the checkpoint is damaged, or of another version.
    """
    found = _find(folder)
    return 0 if found is None else int(_read(found / _STATE)[0]["progress"]["epoch"])


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def _find(folder: Path) -> Path | None:
    """The checkpoint, or the one before it where the last was cut off between two renames."""
    return next((path for path in (folder, _beside(folder, ".old")) if (path / _STATE).is_file()), None)


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
        raise TrainingError(
            f"Expected a checkpoint of version {_VERSION} in {path}, but got {header.get('version')}; "
            "start the run anew"
        )
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


def _random_state() -> dict[str, torch.Tensor]:
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random(tensors: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
