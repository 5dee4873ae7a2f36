"""A network that is trained once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ice_toy import accuracy_of, train
from networks import residual_network as make_model


@pytest.fixture(scope="session")
def trained_once() -> nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = make_model()
    train(model, [0.1, 0.1, 0.05, 0.01])
    assert accuracy_of(model) > 95
    return model


@pytest.fixture
def trained(trained_once: nn.Module) -> nn.Module:
    return copy.deepcopy(trained_once)
