"""Compensation of networks that run in mixed precision: as of those that do not."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn

import icycle
from icycle.errors import SurgeryError


def bf16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


class Network(nn.Module):
    """A convolution, an attention and linear layers, of activations that are far from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 16, 3)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.layers = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 5))
        nn.init.constant_(self.layers[0].bias, 3.0)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.image(x).relu().flatten(2).movedim(1, 2)
        return self.layers(self.attention(x, x, x, need_weights=False)[0])


class Inside(nn.Module):
    """Asks for mixed precision itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with bf16():
            return self.network(x).float()


class Fixture:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network, self.x = Network().eval(), torch.randn(64, 3, 7, 7)
        self.structure = icycle.trace(self.network, self.x[:2])
        self.subnet = icycle.SubNetwork.random(self.structure, ratio=0.3)
        self.wanted = self.network(self.x).detach()

    def compensated(self, network: nn.Module) -> nn.Module:
        return icycle.compensate(network, self.structure, self.subnet, [self.x[:32], self.x[32:]])

    @torch.no_grad()
    def error(self, network: nn.Module) -> float:
        """Of the network as it is in single precision."""
        pruned = icycle.prune(copy.deepcopy(network), self.structure, self.subnet)
        return float((pruned(self.x) - self.wanted).square().mean())


@pytest.mark.parametrize("how", ["around", "around, after a pass", "inside", "wrapped", "inference mode"])
def test_mixed_precision_changes_next_to_nothing(how: str) -> None:
    fixture = Fixture()
    expected, network = fixture.compensated(copy.deepcopy(fixture.network)), copy.deepcopy(fixture.network)
    if how == "inside":
        fixture.structure = icycle.trace(Inside(network), fixture.x[:2])
        keep = {f"network.{name}": kept for name, kept in fixture.subnet.keep.items()}
        whole, fixture.subnet = fixture.subnet, icycle.SubNetwork(keep)
        fixture.compensated(Inside(network))
        fixture.structure, fixture.subnet = icycle.trace(network, fixture.x[:2]), whole
    elif how == "wrapped":  # as Accelerate does
        network.forward = bf16()(network.forward)  # type: ignore[method-assign]
        fixture.compensated(network)
        del network.forward
    else:
        with torch.inference_mode() if how == "inference mode" else contextlib.nullcontext(), bf16():
            if how == "around, after a pass":
                network(fixture.x)
            fixture.compensated(network)
    plain, best, found = (fixture.error(each) for each in (fixture.network, expected, network))
    assert best < 1e-5 * plain
    assert found < 2e-5 * plain


def test_in_mixed_precision_training_goes_on_with_the_refitted_weights() -> None:
    fixture = Fixture()
    network = copy.deepcopy(fixture.network)
    with bf16():
        network(fixture.x)  # autocast keeps its copies of the weights for as long as its block lasts
        fixture.compensated(network)
        found = network(fixture.x)
        found.float().square().mean().backward()
    with bf16():
        torch.testing.assert_close(found, network(fixture.x))
    assert all(parameter.grad is not None for parameter in network.parameters())


class Computed(nn.Module):
    """Its second layer multiplies with what it makes of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.first(x).relu(), self.second.weight * 2.0, self.second.bias)


def test_a_model_of_which_no_consumer_can_be_seen_is_refused_and_as_it_was() -> None:
    model, x = Computed(), torch.randn(20, 6)
    structure = icycle.trace(model, x[:2])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SurgeryError, match=r"of 1 weights .* second\.weight .* leave compensation out"):
        icycle.compensate(model, structure, icycle.SubNetwork.random(structure, 0.5), [x])
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_parametrised_consumers_are_left_as_they_are() -> None:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(20, 6)
    nn.utils.parametrizations.weight_norm(model[2])
    structure = icycle.trace(model, x[:2])
    before = copy.deepcopy(model.state_dict())
    icycle.compensate(model, structure, icycle.SubNetwork.random(structure, 0.5), [x])
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
