"""Distillation: the network also learns what a dense teacher makes of the same inputs.

Source: Hinton and others, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from icycle.errors import TrainingError
from icycle.training._accelerator import Precision
from icycle.training._batches import Batch, run_model, split_batch
from icycle.training._settings import Settings
from icycle.training._task import Supervised, Task

__all__ = ["Distill", "Teacher"]

_NETWORK = "network."
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Distill(Settings):
    """How much of the loss is the teacher's: (1 - weight) * the task's loss + weight * the distance to the teacher.

    The teacher is the dense network with the weights at `teacher`, from the first step on; without a path it is the
    dense network of the same run, once there is a trained one: what a method starts from, or what it had before its
    removal. One from the midst of the run knows less than what is left of it may come to know, so its weight falls
    linearly, to nothing at the end of the run. `temperature` softens the classes of both. The teacher computes in
    `precision`; by default as the run does.
    """

    teacher: Path | None = None
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 4.0
    precision: Precision | None = None


class Teacher:
    """A network that is listened to and does not learn; part of a run's checkpoints, where the run itself made it.

    Args:
        network: a dense one; is copied.
        settings: how it is listened to.
        precision: of the run.
        trained: it can teach as it is; else it waits for `take`.
    """

    def __init__(self, network: torch.nn.Module, settings: Distill, precision: Precision, *, trained: bool) -> None:
        self.teaches = trained
        self._since: float | None = None  # the progress of the run at which it was taken, if it fades from there
        self._own = not trained
        self._settings = settings
        self._dtype = _DTYPES[settings.precision or precision]
        self._network = copy.deepcopy(network).eval().requires_grad_(False)

    def take(self, network: torch.nn.Module, since: float | None = None) -> None:
        """From now on teach what `network`, still whole, is at this moment; a teacher that teaches stays as it is.

        `since`, the progress of the run, 0..1, is given where the network's training is not over.
        """
        if not self.teaches:
            self._network.load_state_dict(network.state_dict())
            self.teaches, self._since = True, since

    def weight(self, progress: float) -> float:
        """The teacher's share of the loss at the run's progress, 0..1."""
        left = 1.0 if self._since is None else (1 - progress) / (1 - self._since)
        return self._settings.weight * left

    def loss(self, model: torch.nn.Module, batch: Batch, task: Task, progress: float) -> torch.Tensor:
        """The loss of `model` on a batch, a scalar, at the run's progress, 0..1.

        Raises:
            TrainingError: the task cannot be taught.
        """
        if not isinstance(task, Supervised) or not task.can_be_taught:
            raise TrainingError(
                f"Expected a task whose outputs can be compared with a teacher's, but got '{task.name}'; give it an "
                "`imitation_loss` (see icycle.tasks.Supervised), or leave train.distill out"
            )
        inputs, targets = split_batch(batch)
        outputs = run_model(model, inputs)
        share = self.weight(progress)
        taught = task.imitation_loss(outputs, self.outputs(inputs), targets, self._settings.temperature)
        return (1 - share) * task.loss_of(outputs, targets) + share * taught

    @torch.no_grad()
    def outputs(self, inputs: Any) -> Any:
        """What the teacher makes of inputs, in evaluation mode."""
        device = next(self._network.parameters()).device.type
        half = self._dtype != torch.float32
        with torch.autocast(device, dtype=self._dtype if half else None, enabled=half):
            return run_model(self._network, inputs)

    def state_dict(self) -> dict[str, Any]:
        """Whether it teaches, since when, and its weights where only the run has them."""
        kept = self._network.state_dict() if self._own and self.teaches else {}
        weights = {_NETWORK + name: value for name, value in kept.items()}
        return {"teaches": self.teaches, "since": self._since, **weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.teaches, self._since = state["teaches"], state.get("since")
        kept = {key[len(_NETWORK) :]: value for key, value in state.items() if key.startswith(_NETWORK)}
        if kept:
            self._network.load_state_dict(kept)
