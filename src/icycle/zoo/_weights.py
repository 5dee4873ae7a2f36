"""Trained weights: from an artifact, a safetensors file, or a torch file; never from a pickle that may run code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from icycle import artifacts
from icycle.errors import RecipeError

__all__ = ["fit_state", "is_weights_file", "load_weights"]

_TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state")  # where checkpoints keep the state dict
_SHOWN = 5  # keys


def is_weights_file(path: Path) -> bool:
    """Whether that is the name of a file that holds a state dict, there or not; a saved model is a folder."""
    return path.suffix in (".safetensors", *_TORCH) and not path.is_dir()


def load_weights(path: Path, model: nn.Module) -> list[str]:
    """Give `model` the weights in `path`; returns the names of the tensors that stayed fresh, those of a new head.

    A folder that `icycle.save` made may hold a pruned model; `model` then loses the same channels. A `.safetensors`
    file, or one of torch's (read with weights_only), holds a state dict, or a checkpoint with one in it.

    Raises:
        ArtifactError: the folder is damaged, or of another architecture.
        RecipeError: the file is missing, damaged, holds more than weights, or does not fit the model.
    """
    if path.is_dir():
        artifacts.load(path, model)
        return []
    if not path.is_file():
        raise RecipeError(f"Expected trained weights at {path}, but there is nothing; change model.weights")
    return fit_state(model, _state(path), str(path))


def fit_state(model: nn.Module, state: Mapping[str, torch.Tensor], origin: str) -> list[str]:
    """Load a state dict; the head may be for another number of classes, and then stays fresh: its tensors' names.

    Of tensors that the model ties together one is enough, as `safetensors.torch.save_model` writes them.

    Raises:
        RecipeError: keys are missing or unexpected, or another shape differs; all are named. The model is unchanged.
    """
    own = model.state_dict()
    prefix = _prefix(state, own)
    given = {key.removeprefix(prefix): value for key, value in state.items()}
    given |= _twins(model, given)
    other = [key for key in own if key in given and own[key].shape != given[key].shape]
    head = [key for key in other if own[key].shape[1:] == given[key].shape[1:]]
    # one layer with a weight of its own: a norm or a bias alone is no head
    ends = {key.rpartition(".")[0] for key in head}
    if len(ends) > 1 or all(own[key].dim() < 2 for key in head):
        head = []
    faults = {
        "missing": [key for key in own if key not in given],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [key for key in other if key not in head],
    }
    if any(faults.values()):
        told = "; ".join(f"{len(keys)} {word}: {_shown(keys)}" for word, keys in faults.items() if keys)
        if faults["of another shape"]:
            key = faults["of another shape"][0]
            told += f" (the first is {list(given[key].shape)}, and the network's {list(own[key].shape)})"
        raise RecipeError(
            f"Expected the state dict of {type(model).__name__} in {origin}, but it does not fit: {told}; check "
            "model.name, model.width and model.options"
        )
    model.load_state_dict({**given, **{key: own[key] for key in head}})
    return head


def _twins(model: nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The values of names that are not given, but stand for the same tensor as one that is."""
    own = model.state_dict(keep_vars=True)
    named = {id(tensor): given[key] for key, tensor in own.items() if key in given}
    return {key: named[id(tensor)] for key, tensor in own.items() if key not in given and id(tensor) in named}


def _prefix(given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str:
    """What a wrapper (`module.`, `_orig_mod.`, Lightning's `model.`) has put before every given name; else empty."""
    first = next(iter(given), "")
    prefixes = [first.removesuffix(key) for key in own if first.endswith(f".{key}")]
    shared = (each for each in prefixes if all(key.startswith(each) for key in given))
    return next((each for each in shared if not any(key.startswith(each) for key in own)), "")


def _state(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in _TORCH:
            return _unwrapped(torch.load(path, map_location="cpu", weights_only=True), path)
    except UnpicklingError as error:
        raise RecipeError(
            f"Expected nothing but tensors in {path}, but it is no torch file, or holds other objects (a whole model, "
            "say), which could run any code when read; save model.state_dict() alone, or better "
            "safetensors.torch.save_model(model, 'weights.safetensors')"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise RecipeError(f"Expected a state dict in {path}, but it cannot be read: {error}") from error
    raise RecipeError(
        f"Expected a .safetensors file, a torch file ({', '.join(_TORCH)}), or a saved model's folder, but got {path}"
    )


def _unwrapped(content: Any, path: Path) -> Mapping[str, torch.Tensor]:
    """The state dict in what a torch file holds."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        keys = f" with {_shown(list(map(str, content)))}" if isinstance(content, Mapping) else ""
        raise RecipeError(
            f"Expected a state dict in {path}, but got {type(content).__name__}{keys}; save model.state_dict()"
        )
    return content


def _shown(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
