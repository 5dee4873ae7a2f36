"""Whether a recipe's network, data and settings go together, before anything is done with them."""

from __future__ import annotations

import torch
from torch import nn

from icycle.errors import RecipeError
from icycle.tracing import call_with, shapes_in_words, undisturbed
from icycle.training import Classification, Task, logits_of, modes_kept
from icycle.zoo import Data

__all__ = ["require_a_batch", "require_fit"]


def require_a_batch(data: Data) -> None:
    """Raises RecipeError where the training data has fewer examples than a batch."""
    if len(data.train) < 1:
        raise RecipeError(
            f"Expected train.batch_size to be no more than the {data.train.examples} training examples of "
            f"'{data.name}', but got {data.train.batch_size}; lower it"
        )


def require_fit(name: str, model: nn.Module, data: Data, task: Task) -> None:
    """Check that the network takes an example, and has an output for every class; it stays as it is.

    Raises:
        RecipeError: it does not; says which inputs it was given, and how many classes there are.
    """
    inputs = data.example()
    with undisturbed(model), modes_kept(model), torch.no_grad():
        try:
            outputs = call_with(model.eval(), inputs)
        except Exception as error:  # whatever the network's own code raises
            raise RecipeError(
                f"Expected '{name}' to take the inputs of '{data.name}', {shapes_in_words(inputs)}, but it gave "
                f"{type(error).__name__}: {error}; change data.size or data.channels, or the network (model.name, "
                "model.options)"
            ) from error
    if not isinstance(task, Classification):
        return
    logits = logits_of(outputs)
    if logits.dim() < 2 or logits.shape[1] < data.classes:
        raise RecipeError(
            f"Expected '{name}' to return scores (batch, classes) for the {data.classes} classes of '{data.name}', but "
            f"got {tuple(logits.shape)}; let it take num_classes, which it is given then, or change model.options"
        )
