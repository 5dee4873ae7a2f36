"""Freezing: which layers, where the backward pass ends, and the cut."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import icycle
from ice_toy import BATCHES, EXAMPLE, train
from icycle.methods.ice._freeze import Frozen, FrozenLayers, first_layers
from icycle.methods.ice._layers import layers_of
from icycle.structure import SubNetwork, after_removal
from icycle.zoo import build_model
from networks import residual_network as make_model


def test_layers_take_their_norms_along_in_the_order_of_execution() -> None:
    layers = layers_of(make_model(), EXAMPLE)
    assert [(layer.name, layer.companions) for layer in layers] == [
        ("0", ("1",)),
        ("3.conv1", ("3.bn1",)),
        ("3.conv2", ("3.bn2",)),
        ("4.conv1", ("4.bn1",)),
        ("4.conv2", ("4.bn2",)),
        ("7", ()),
    ]
    assert [layer.macs for layer in layers] == [9 * 16 * 64, *[9 * 16 * 16 * 64] * 4, 16 * 3]


def test_the_first_layers_are_frozen_and_the_last_never() -> None:
    layers = layers_of(make_model(), EXAMPLE)
    assert [layer.name for layer in first_layers(layers, 0.5)] == ["0", "3.conv1", "3.conv2"]
    assert len(first_layers(layers, 0.34)) == 3  # of 6, rounded up
    assert len(first_layers(layers, 0.99)) == 5


def test_the_first_layers_save_more_than_any_others() -> None:
    """Of as many layers: two thirds of their share of a step, where others save a third of it."""
    model = make_model()
    layers = layers_of(model, EXAMPLE)
    first = first_layers(layers, 0.5)
    total = sum(layer.macs for layer in layers)
    assert Frozen(model, EXAMPLE, layers, first).saved == pytest.approx(2 / 3 * sum(x.macs for x in first) / total)
    for others in itertools.combinations(layers[1:-1], len(first)):
        assert Frozen(model, EXAMPLE, layers, others).saved <= sum(x.macs for x in others) / total / 3 + 1e-12


def test_what_is_saved_follows_the_network_as_it_shrinks() -> None:
    model = make_model()
    structure = icycle.trace(model, EXAMPLE)
    frozen = FrozenLayers(["0", "3.conv1", "3.conv2"], EXAMPLE)
    before = frozen.within(model, structure)
    assert before is frozen.within(model, structure)
    subnet = SubNetwork.first(structure, {group.name: 4 for group in structure.prunable})
    icycle.prune(model, structure, subnet)
    after = frozen.within(model, after_removal(structure, subnet))
    assert after is not None and before is not None
    assert [layer.name for layer in after.layers] == [layer.name for layer in before.layers]
    layers = layers_of(model, EXAMPLE)
    assert after.saved == pytest.approx(2 / 3 * sum(x.macs for x in layers[:3]) / sum(x.macs for x in layers))
    assert FrozenLayers([], EXAMPLE).within(model, structure) is None


def freeze(model: nn.Module, count: int, example: torch.Tensor = EXAMPLE) -> Frozen:
    layers = layers_of(model, example)
    return Frozen(model, example, layers, layers[:count])


@pytest.mark.parametrize(
    ("count", "cut", "last"),
    [(0, None, None), (1, "2", "2"), (2, "2", "3.bn1"), (3, "3", "3"), (4, "3", "4.bn1"), (5, "6", "6")],
)
def test_the_prefix_ends_at_the_first_layer_that_trains_and_is_cut_where_that_can_be_proven(
    count: int, cut: str | None, last: str | None
) -> None:
    frozen = freeze(make_model(), count)
    assert frozen.cut == cut
    assert (last in frozen.prefix) if last else not frozen.prefix


def test_the_backward_pass_ends_at_the_prefix_which_stays_in_evaluation_mode() -> None:
    model = make_model()
    frozen = freeze(model, 3)
    inner = {}
    model[3].register_forward_hook(lambda module, inputs, output: inner.update(prefix=output.requires_grad))
    model[4].register_forward_hook(lambda module, inputs, output: inner.update(rest=output.requires_grad))
    mean = model[1].running_mean.clone()  # type: ignore[union-attr, operator]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with frozen.applied(model):
        train(model, [0.1])
    after = dict(model.named_parameters())
    assert inner == {"prefix": False, "rest": True}
    assert torch.equal(model[1].running_mean, mean)  # type: ignore[arg-type]
    assert {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])} == {"4", "7"}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_frozen_layers_behind_one_that_trains_stay_as_they_are_too() -> None:
    model = make_model()
    layers = layers_of(model, EXAMPLE)
    frozen = Frozen(model, EXAMPLE, layers, layers[2:3])
    assert frozen.prefix == ()
    assert frozen.cut is None
    assert 0 < frozen.saved < 1 / 3
    before = model[3].conv2.weight.detach().clone()  # type: ignore[union-attr]
    with frozen.applied(model):
        train(model, [0.1])
    assert torch.equal(model[3].conv2.weight, before)  # type: ignore[union-attr]


def test_stored_outputs_give_the_same_function_and_gradients() -> None:
    model = make_model()
    train(model, [0.05])
    frozen = freeze(model, 3)
    inputs, labels = BATCHES[0]

    def gradients() -> list[torch.Tensor]:
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    with frozen.applied(model):
        model.train()
        model.zero_grad()
        state = copy.deepcopy(model.state_dict())
        cross_entropy(model(inputs), labels).backward()
        expected = gradients()
        model.zero_grad()
        model.load_state_dict(state)
        replay = frozen.replay(model)
        assert replay is not None
        stored = replay.outputs(lambda: model(inputs))
        with replay:
            replay.feed(stored)
            cross_entropy(model(torch.full_like(inputs, math.nan)), labels).backward()
            found = gradients()
            replay.feed(None)
            assert model.eval()(inputs).isfinite().all()
    assert len(expected) == len(found) > 4
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert "forward" not in vars(model[3])


def test_a_model_that_needs_its_input_again_is_not_cut() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.cat([self.first(x), x], dim=1))

    model = Again()
    frozen = freeze(model, 1, torch.zeros(2, 4))
    assert frozen.prefix == ("first",)
    assert frozen.cut is None
    assert frozen.replay(model) is None


@pytest.mark.parametrize("name", ["resnet20", "vgg16-bn", "mobilenet-v2", "densenet40"])
def test_every_family_s_prefix_can_be_cut(name: str) -> None:
    model, example = build_model(name, num_classes=10, width=4), torch.zeros(2, 3, 32, 32)
    frozen = freeze(model, len(layers_of(model, example)) // 2, example)
    assert frozen.cut is not None
    assert frozen.prefix_share > 0.2
