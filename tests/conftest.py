"""What every test shares: one thread, a fixed seed, and the option that adds the long tests."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-models", action="store_true", help="prove every model of zoo.txt, not only the small ones")


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    """Small tensors run faster on one thread, and weights that depend on the order of the tests prove nothing twice."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
