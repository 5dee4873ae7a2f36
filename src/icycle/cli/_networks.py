"""What `icycle bench` and `icycle export` are given: a run's folder, a model's name, or a saved model of that name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from icycle.recipes import FinishedRun

__all__ = ["Source", "examples", "open_source", "require_inputs"]


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
    if not folder:
        model, inputs = load_model(reference, shape)
        return Source(name, model.eval(), None, inputs)
    known = None if shape is not None or ":" in reference else _saved_inputs(folder)
    shape = shape or _shape_in_words(known)
    classes = _classes(folder, lambda classes: load_model(reference, shape, classes)[0])
    (dense, inputs), (pruned, _) = (load_model(reference, shape, classes) for _ in range(2))
    return Source(name, load(folder, pruned).eval(), dense.eval(), inputs if known is None else known)


def _saved_inputs(folder: str) -> Any:
    """Random inputs shaped like those that the saved model was traced on, integers as large; None where that is not
    known."""
    import torch

    from icycle.artifacts import saved_inputs
    from icycle.tracing import map_tensors

    dice = torch.Generator().manual_seed(0)

    def random(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.normal_(generator=dice) if tensor.is_floating_point() else tensor

    return map_tensors(saved_inputs(folder), random)


def _shape_in_words(inputs: Any) -> str | None:
    """That of one input, as --input would say it; None for anything but a batch of floats."""
    import torch

    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point() or inputs.dim() < 2:
        return None
    return ",".join(str(size) for size in inputs.shape[1:])


def _classes(folder: str, build: Callable[[int], nn.Module]) -> int | None:
    """How many classes the saved network has, by the sizes that follow this number; None where none does.

    Removals may have made some of these sizes smaller, but not that of the last layer: the largest number counts.
    """
    from icycle.artifacts import saved_shapes
    from icycle.tracing import named_tensors

    saved, few, more = saved_shapes(folder), *(dict(named_tensors(build(classes))) for classes in (2, 3))
    sizes = [
        size
        for name in few.keys() & more.keys() & saved.keys()
        for size in zip(few[name].shape, more[name].shape, saved[name], strict=False)
    ]
    return max((2 + (own - two) // (three - two) for two, three, own in sizes if three > two), default=None)


def require_inputs(name: str, model: nn.Module, inputs: Any) -> None:
    """Raises RecipeError where the network cannot be run on these inputs."""
    import torch

    from icycle.errors import RecipeError
    from icycle.tracing import call_with, shapes_in_words, undisturbed

    try:
        with undisturbed(model), torch.no_grad():
            call_with(model, inputs)
    except Exception as error:  # whatever the network's own code raises
        raise RecipeError(
            f"Expected '{name}' to take {shapes_in_words(inputs)}, but it gave {type(error).__name__}: "
            f"{str(error)[:200]}; say the shape with --input, or name a run's folder, or module.path:factory of your "
            "own, which returns a model and its example inputs"
        ) from error


def examples(run: FinishedRun, count: int) -> Any:
    """Inputs of the first `count` validation examples, on the network's device."""
    from icycle.tracing import map_tensors
    from icycle.training import inputs_of, to_device

    inputs = inputs_of(next(iter(run.data.validation)))
    return to_device(map_tensors(inputs, lambda tensor: tensor[:count]), run.pruned)
