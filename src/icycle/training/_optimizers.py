"""Optimizers by name: each is its settings plus `build`. One's own is a subclass, named by its import path."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch.optim.optimizer import ParamsT

from icycle.registry import Kind
from icycle.training._settings import Named, Settings

__all__ = ["SGD", "AdamW", "Optimizer", "OptimizerSettings"]

LearningRate = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
WeightDecay = Annotated[float, Field(ge=0)]


class Optimizer(Settings, ABC):
    """An optimizer's settings; one of your own has a default for `name`, and fields for all that can be set."""

    name: str
    learning_rate: LearningRate

    @abstractmethod
    def build(self, parameters: ParamsT) -> torch.optim.Optimizer:
        """The optimizer of `parameters`: some, or groups of them, as torch's optimizers take them."""


class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: LearningRate = 0.1
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 5e-4
    nesterov: bool = False

    def build(self, parameters: ParamsT) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov and self.momentum > 0,
        )


class AdamW(Optimizer):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    learning_rate: LearningRate = 1e-3
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    weight_decay: WeightDecay = 1e-2

    def build(self, parameters: ParamsT) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay)


_OPTIMIZERS: Kind[type[Optimizer]] = Kind("an optimizer", "icycle.optimizers", {"sgd": SGD, "adamw": AdamW})

OptimizerSettings = Annotated[Optimizer, Named(Optimizer, _OPTIMIZERS.find)]
