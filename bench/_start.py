"""Where benchmarks of methods for trained networks begin: a recipe's network, trained once per seed and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from icycle.methods import Context, Dense
from icycle.recipes import Recipe
from icycle.training import Recorder, evaluate
from icycle.zoo import build_model, load_data

__all__ = ["context_of", "test_batches", "trained"]


def context_of(recipe: Recipe, seed: int, *, weights: Path | None = None) -> Context:
    """The recipe's data and network: with fresh weights, or with trained ones."""
    torch.manual_seed(seed)
    data = load_data(**recipe.data.model_dump(), batch_size=recipe.train.batch_size, seed=seed)
    shape = {"num_classes": data.classes, "in_channels": data.shape[0], "width": recipe.model.width}
    model = build_model(recipe.model.name, **shape, options=recipe.model.options)
    if weights is not None:
        model.load_state_dict(load_file(weights))
    return Context(model, data, recipe.train, Recorder(), seed=seed, trained=weights is not None)


def trained(recipe: Recipe, seed: int, cache: Path, share: float = 1.0) -> Path:
    """The file of the network that the recipe's training gives with this seed; trained if it is not in `cache`, and
    read on this share of the test images."""
    path = cache / f"{recipe.model.name}-{recipe.model.width}-{recipe.train.epochs}-{seed}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        context = context_of(recipe, seed)
        Dense().run(context)
        test = evaluate(context.model, test_batches(context, share))
        state = {name: value.contiguous() for name, value in context.model.state_dict().items()}
        save_file(state, path.with_suffix(".new"), {"test": json.dumps(test)})
        path.with_suffix(".new").rename(path)
        print(f"{path.stem}: {test:.2f} %", flush=True)
    return path


def test_batches(context: Context, share: float) -> Any:
    """This share of the test images, the same ones each time; can be had once for each context."""
    return context.data.test.open().share(share, seed=0)
