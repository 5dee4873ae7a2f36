"""What a recipe says about training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from icycle.training._accelerator import Precision
from icycle.training._distill import Distill
from icycle.training._optimizers import SGD, OptimizerSettings
from icycle.training._schedules import Cosine, ScheduleSettings
from icycle.training._settings import Settings

__all__ = ["TrainSettings"]


class TrainSettings(Settings):
    """How a network is trained."""

    epochs: Annotated[int, Field(ge=1)] = 12
    batch_size: Annotated[int, Field(ge=2)] = 128
    accumulate: Annotated[int, Field(ge=1)] = 1  # batches in a step of the optimizer
    optimizer: OptimizerSettings = SGD()
    schedule: ScheduleSettings = Cosine()
    precision: Precision = "no"
    channels_last: bool = True
    compile: str | None = None  # a backend of torch.compile for the training steps, such as inductor
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    weight_decay: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)  # see `build_optimizer`
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    distill: Distill | None = None
    early_stopping: Annotated[int, Field(ge=1)] | None = None  # epochs without a better validation metric
    deterministic: bool = False
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 15.0  # between two in the middle of an epoch
