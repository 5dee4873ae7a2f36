"""What `icycle bench` and `icycle export` are given: a run's folder, a model's name, or a saved model of that name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from icycle.recipes import FinishedRun

__all__ = ["Source", "examples", "open_source"]


@dataclass(frozen=True)
class Source:
    """A pruned network (or one as it is), the dense one where it is known, inputs, and the run where there was one."""

    name: str
    model: nn.Module
    dense: nn.Module | None
    inputs: Any
    run: FinishedRun | None = None


def open_source(name: str, shape: str | None) -> Source:
    """RUN, MODEL or MODEL=FOLDER; raises RecipeError or ArtifactError where there is no such thing."""
    from icycle.artifacts import load
    from icycle.cli._model import load_model
    from icycle.errors import RecipeError
    from icycle.recipes import is_run, open_run

    if is_run(Path(name)):
        if shape is not None:
            raise RecipeError(f"Expected --input for a MODEL alone, but {name} is a run, which is shown its own data")
        run = open_run(Path(name))
        return Source(name, run.pruned, run.dense, examples(run, 1), run)
    reference, _, folder = name.partition("=")
    dense, inputs = load_model(reference, shape)
    dense = dense.eval()
    if not folder:
        return Source(name, dense, None, inputs)
    pruned, _ = load_model(reference, shape)
    return Source(name, load(folder, pruned).eval(), dense, inputs)


def examples(run: FinishedRun, count: int) -> Any:
    """Inputs of the first `count` validation examples, on the network's device."""
    from icycle.tracing import map_tensors
    from icycle.training import inputs_of, to_device

    inputs = inputs_of(next(iter(run.data.validation)))
    return to_device(map_tensors(inputs, lambda tensor: tensor[:count]), run.pruned)
