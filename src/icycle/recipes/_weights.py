"""Trained weights from disk."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from icycle import artifacts
from icycle.errors import RecipeError

__all__ = ["load_weights"]


def load_weights(path: Path, model: nn.Module) -> None:
    """Give `model` the weights in `path`: a folder that `icycle.save` made, or a state dict in a .safetensors file.

    A folder may hold a pruned model; `model` then loses the same channels. Pickled checkpoints are refused: reading one
    may run anything.

    Raises:
        ArtifactError: the folder is damaged, or of another architecture.
        RecipeError: the file is missing, damaged, or does not fit the model.
    """
    if path.is_dir():
        artifacts.load(path, model)
        return
    if not path.is_file():
        raise RecipeError(f"Expected trained weights at {path}, but there is nothing; change model.weights")
    if path.suffix != ".safetensors":
        raise RecipeError(
            f"Expected a .safetensors file or a saved model's folder, but got {path}; write the state dict anew with "
            "safetensors.torch.save_model(model, 'weights.safetensors')"
        )
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RecipeError(f"Expected a state dict in {path}, but it cannot be read: {error}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RecipeError(
            f"Expected the state dict of {type(model).__name__} in {path}, but it does not fit: {error}; "
            "check model.name and model.width"
        ) from error
