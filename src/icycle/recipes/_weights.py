"""Trained weights from disk."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from icycle import artifacts
from icycle.errors import RecipeError

__all__ = ["load_weights"]


def load_weights(path: Path, model: nn.Module) -> None:
    """Give `model` the weights in `path`: a folder that `icycle.save` made, or a state dict as .safetensors or .pt.

    A folder may hold a pruned model; `model` then loses the same channels. Nothing but tensors is unpickled.

    Raises:
        ArtifactError: the folder is damaged, or of another architecture.
        RecipeError: the file is missing, damaged, or does not fit the model.
    """
    if path.is_dir():
        artifacts.load(path, model)
        return
    if not path.is_file():
        raise RecipeError(f"Expected trained weights at {path}, but there is nothing; change model.weights")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise RecipeError(f"Expected a state dict in {path}, but it cannot be read: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"Expected the state dict of {type(model).__name__} in {path}, but it does not fit: {error}; "
            "check model.name and model.width"
        ) from error
