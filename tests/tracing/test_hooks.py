"""Hooks that change what a layer gives are part of the model; those that watch never see a copy."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import icycle

seen: list[Any] = []


def note(name: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
    seen.append((name, output))


class Notes:
    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen.append(output)

    def take(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen.append(output)


class Shift:
    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + 1


def early(module: nn.Module, inputs: Any, output: torch.Tensor) -> Any:
    if output.dim() > 9:
        return None
    return output.cos()


@pytest.mark.parametrize(
    "hook",
    [partial(note, "first"), Notes(), Notes().take, lambda m, a, o: seen.append(o.detach())],
    ids=["partial", "object", "bound method", "lambda"],
)
def test_a_hook_that_watches_is_left_alone(hook: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    model[0].register_forward_hook(hook)
    seen.clear()
    assert icycle.trace(model, torch.randn(2, 4))["0"].exact
    assert not seen


@pytest.mark.parametrize("hook", [Shift(), early, lambda m, a, o: o.add_(1)], ids=["object", "function", "in place"])
@pytest.mark.parametrize("proof", ["shapes", "numbers"])
def test_a_hook_that_changes_what_passes_is_part_of_the_model(hook: Any, proof: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 2))
    model[1].register_forward_hook(hook)
    x = torch.randn(2, 4)
    structure = icycle.trace(model, x, proof=proof)
    assert structure["0"].prunable
    subnet = icycle.SubNetwork.random(structure, 0.5)
    assert icycle.testing.removal_error(model, x, subnet) < 1e-6
