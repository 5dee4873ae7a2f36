"""A removal is one transaction over model, gradients, optimizer and averaged copies."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.errors import SubNetworkError, SurgeryError
from networks import IMAGE, TOKENS, Branches, Words, differences, snapshot

Optimizer = Callable[[Any], torch.optim.Optimizer]
MODELS = {"branches": (Branches, IMAGE), "words": (Words, TOKENS)}

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.0),
    "amsgrad": lambda params: torch.optim.Adam(params, lr=0.01, amsgrad=True),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.9, centered=True),
    "adamax": lambda params: torch.optim.Adamax(params, lr=0.01),
    "nadam": lambda params: torch.optim.NAdam(params, lr=0.01),
    "radam": lambda params: torch.optim.RAdam(params, lr=0.01),
    "adadelta": lambda params: torch.optim.Adadelta(params, lr=0.01, eps=1e-3),
    "asgd": lambda params: torch.optim.ASGD(params, lr=0.01),
    "foreach": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.0, foreach=True),
    "fused": lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.0, fused=True),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=0.01, eps=1e-3),
}


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    out = model(inputs)
    return (out["logits"] if isinstance(out, dict) else out).square().mean()


def train(model: nn.Module, inputs: Tensor, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model, inputs).backward()
        optimizer.step()


def prepared(name: str, optimizer: str = "sgd") -> tuple[nn.Module, Any, icycle.Structure, torch.optim.Optimizer]:
    """A model in float64 that has been trained for some steps, and its structure."""
    build, inputs = MODELS[name]
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    model = build().double()
    fitted = OPTIMIZERS[optimizer](model.parameters())
    train(model, inputs, fitted)
    return model, inputs, icycle.trace(model, inputs), fitted


def state_of(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Parameters and state of an optimizer, in order, as values and identities."""
    found: list[Any] = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            found.append((id(parameter), {key: copy.deepcopy(value) for key, value in state.items()}))
    return found


def assert_same_state(before: list[Any], after: list[Any]) -> None:
    for (one, old), (other, new) in zip(before, after, strict=True):
        assert one == other
        assert old.keys() == new.keys()
        assert all(torch.equal(torch.as_tensor(old[key]), torch.as_tensor(new[key])) for key in old)


# ---- what a removal does ----


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_changed_in_place_and_returned(name: str) -> None:
    model, _, structure, _ = prepared(name)
    modules = list(model.modules())
    subnet = icycle.SubNetwork.random(structure, 0.5)
    assert icycle.prune(model, structure, subnet) is model
    assert list(model.modules()) == modules
    assert sum(parameter.numel() for parameter in model.parameters()) == structure.params(subnet)


def test_parameters_are_new_objects_with_the_kept_values() -> None:
    model, _, structure, _ = prepared("branches")
    before = dict(model.named_parameters())
    hint = model.get_buffer("hint")
    subnet = icycle.SubNetwork.random(structure, 0.5)
    icycle.prune(model, structure, subnet)
    kept = subnet.keep["stem"]
    stem, old = model.get_parameter("stem.weight"), before["stem.weight"]
    assert stem is not old
    assert old.shape[0] == 8
    assert torch.equal(stem, old[kept])
    assert stem.grad is not None
    assert old.grad is not None
    assert torch.equal(stem.grad, old.grad[kept])
    assert torch.equal(model.get_buffer("hint"), hint[kept])
    assert model.get_parameter("head.bias") is before["head.bias"]  # nothing was removed from it


def test_a_model_pruned_in_inference_mode_can_be_trained() -> None:
    model, example = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)
    with torch.inference_mode():
        structure = icycle.trace(model, example)
        icycle.prune(model, structure, icycle.SubNetwork.random(structure, ratio=0.5))
    model(example).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_default_device_does_not_matter() -> None:
    model, example = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)
    with torch.device("meta"):  # on which nothing could be computed
        structure = icycle.trace(model, example)
        scores = icycle.saliency.group_norm(model, structure)
        subnet = icycle.select(structure, scores, icycle.Budget(macs=0.7))
        assert icycle.testing.removal_error(model, example, subnet) < 1e-6
        icycle.prune(model, structure, subnet)
    assert model(example).shape == (3, 2)


def test_attributes_tell_the_new_sizes() -> None:
    model, _, structure, _ = prepared("branches")
    subnet = icycle.SubNetwork.random(structure, 0.5)
    icycle.prune(model, structure, subnet)
    assert isinstance(model, Branches)
    assert (model.stem.out_channels, model.norm.num_features) == (4, 4)
    assert (model.depthwise.groups, model.depthwise.in_channels, model.depthwise.out_channels) == (4, 4, 4)
    assert (model.mix.in_channels, model.mix.out_channels) == (4 + 3, 5)
    assert (model.hidden.in_features, model.hidden.out_features) == (5 * 16, 6)


def test_tied_weights_stay_tied_and_frozen_ones_frozen() -> None:
    model, _, structure, _ = prepared("words")
    assert isinstance(model, Words)
    model.hidden.requires_grad_(False)
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
    assert model.out.weight is model.table.weight
    assert not model.hidden.weight.requires_grad
    assert model.back.weight.requires_grad


def test_modes_and_hooks_stay() -> None:
    model, inputs, structure, _ = prepared("branches")
    assert isinstance(model, Branches)
    calls: list[int] = []
    model.stem.register_forward_hook(lambda *_: calls.append(1))
    model.train()
    model.norm.eval()
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
    assert (model.training, model.norm.training) == (True, False)
    model(inputs)
    assert calls == [1]


def test_channels_last_stays() -> None:
    layers = (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1))
    for last in (True, False):
        layout = torch.channels_last if last else torch.contiguous_format
        model = nn.Sequential(*copy.deepcopy(layers)).to(memory_format=layout)  # type: ignore[call-overload]
        structure = icycle.trace(model, IMAGE)
        icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
        weights = [layer.weight for layer in model]
        assert weights[2].shape[:2] == (3, 4)
        # of a depthwise or a 1x1 weight only the strides tell, and by them kernels choose
        expected = [torch.empty(weight.shape).to(memory_format=layout).stride() for weight in weights]
        assert [weight.stride() for weight in weights] == expected
        assert weights[0].is_contiguous() != last


def test_a_live_graph_does_not_disturb_the_next_step() -> None:
    model, inputs, structure, optimizer = prepared("branches")
    alive = loss_of(model, inputs)
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5), optimizer)
    train(model, inputs, optimizer, 1)
    assert alive.requires_grad


@pytest.mark.parametrize("name", MODELS)
def test_removing_in_two_steps_equals_removing_at_once(name: str) -> None:
    model, inputs, structure, _ = prepared(name)
    other = copy.deepcopy(model)
    first = icycle.SubNetwork.random(structure, 0.3, seed=1)
    icycle.prune(model, structure, first)
    then = icycle.trace(model, inputs)
    second = icycle.SubNetwork.random(then, 0.3, seed=2)
    icycle.prune(model, then, second)
    both = {}
    for group, kept in first.keep.items():
        both[group] = kept.clone()
        both[group][kept] = second.keep[group]
    icycle.prune(other, structure, icycle.SubNetwork(both))
    for (key, one), (_, two) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(one, two), key


def test_averaged_copies_lose_the_same_channels() -> None:
    model, inputs, structure, _ = prepared("branches")
    average = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(0.5)
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5), averaged=[average])
    assert torch.equal(average.get_parameter("stem.weight"), 0.5 * model.get_parameter("stem.weight"))
    assert average(inputs).shape == (2, 4)


# ---- optimizer state ----


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_a_step_after_the_removal_equals_the_step_of_the_zeroed_network(name: str, optimizer: str) -> None:
    """The zeroed network keeps its own momentum; what it learns in the kept entries must be the same.

    The kept entries' gradients are equal: the removed channels are zero in both, and only exact groups are removed.
    """
    model, inputs, structure, fitted = prepared(name, optimizer)
    whole, whole_fitted = copy.deepcopy((model, fitted))
    subnet = icycle.testing.exact_part(structure, icycle.SubNetwork.random(structure, 0.5))
    icycle.testing.zero(whole, structure, subnet)
    icycle.prune(model, structure, subnet, fitted)
    model.eval()
    whole.eval()  # batch norm in training mode would divide by the deviation of zeroed channels: not comparable
    train(model, inputs, fitted, 1)
    train(whole, inputs, whole_fitted, 1)
    plan = icycle.surgery.make_plan(whole, structure, subnet)
    tensors = dict(whole.named_parameters())
    compared = 0
    for key, parameter in model.named_parameters():
        expected = plan.take(key, tensors[key]) if key in plan.kept else tensors[key]
        assert (parameter - expected).abs().max() <= 1e-9, key
        compared += key in plan.kept
    assert compared > 5


def test_the_state_is_sliced_not_reset() -> None:
    model, _, structure, optimizer = prepared("branches")
    old = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in model.named_parameters()}
    subnet = icycle.SubNetwork.random(structure, 0.5)
    icycle.prune(model, structure, subnet, optimizer)
    momentum = optimizer.state[model.get_parameter("stem.weight")]["momentum_buffer"]
    assert torch.equal(momentum, old["stem.weight"][subnet.keep["stem"]])
    assert momentum.abs().sum() > 0
    assert len(optimizer.state) == len(old)


def test_parameter_groups_and_schedules_go_on() -> None:
    model, inputs, structure, _ = prepared("branches")
    assert isinstance(model, Branches)
    rest = [p for name, p in model.named_parameters() if not name.startswith("head")]
    groups = [{"params": list(model.head.parameters()), "lr": 0.5}, {"params": rest}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    train(model, inputs, optimizer, 1)
    schedule.step()
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5), optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.05]
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    before = model.head.weight.detach().clone()
    train(model, inputs, optimizer, 1)
    assert not torch.equal(before, model.head.weight)


def test_several_optimizers_and_one_without_state() -> None:
    model, _, structure, _ = prepared("branches")
    params = list(model.parameters())
    optimizers = [torch.optim.SGD(params[:4], lr=0.1), torch.optim.AdamW(params[4:], lr=0.1)]
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5), optimizers)
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


# ---- where it fails, nothing has happened ----


def test_a_copy_that_cannot_follow_leaves_the_model_as_it_was() -> None:
    model, _, structure, optimizer = prepared("branches")
    before, state = snapshot(model), state_of(optimizer)
    subnet = icycle.SubNetwork.random(structure, 0.5)
    with pytest.raises(SurgeryError, match="another model"):
        icycle.prune(model, structure, subnet, optimizer, averaged=[copy.deepcopy(model), Branches(16)])
    assert differences(before, snapshot(model)) == []
    assert_same_state(state, state_of(optimizer))


def test_a_removal_is_not_applied_twice() -> None:
    model, _, structure, _ = prepared("branches")
    subnet = icycle.SubNetwork.random(structure, 0.5)
    icycle.prune(model, structure, subnet)
    before = snapshot(model)
    with pytest.raises(SurgeryError, match=r"pruned since.*trace"):
        icycle.prune(model, structure, subnet)
    with pytest.raises(SubNetworkError, match="before the model was pruned"):
        icycle.prune(model, icycle.trace(model, IMAGE.double()), subnet)
    assert differences(before, snapshot(model)) == []


def test_sub_networks_and_structures_of_other_models_are_refused() -> None:
    model, _, structure, _ = prepared("branches")
    _, _, other, _ = prepared("words")
    before = snapshot(model)
    with pytest.raises(SubNetworkError, match="another model"):
        icycle.prune(model, structure, icycle.SubNetwork.random(other, 0.5))
    with pytest.raises(SurgeryError, match="another model"):
        icycle.prune(model, other, icycle.SubNetwork.random(other, 0.5))
    wide = icycle.trace(Branches(16), IMAGE)
    with pytest.raises(SurgeryError, match="another model"):
        icycle.prune(model, wide, icycle.SubNetwork.random(wide, 0.5))
    assert differences(before, snapshot(model)) == []


def test_removing_nothing_is_an_error() -> None:
    model, _, structure, _ = prepared("branches")
    before = snapshot(model)
    with pytest.raises(SubNetworkError, match="at least one channel"):
        icycle.prune(model, structure, icycle.SubNetwork.full(structure))
    assert differences(before, snapshot(model)) == []


class Pairs(nn.Module):
    """Long inputs go by a way that needs an even number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x.reshape(len(x), 2, -1).flatten(1) if len(x) > 4 else x)


def test_a_removal_is_rehearsed_on_every_example() -> None:
    model, short, long = Pairs(), torch.randn(3, 6), torch.randn(5, 6)
    example = icycle.trace(model, short, also=[long]).example
    before = snapshot(model)
    both = dataclasses.replace(icycle.trace(model, short), example=example)  # as if the trace had not noticed
    keep = {"first": torch.arange(12) < 7}
    with pytest.raises(SurgeryError, match="on example 2"):
        icycle.prune(model, both, icycle.SubNetwork(keep))
    assert differences(before, snapshot(model)) == []
    icycle.prune(model, both, icycle.SubNetwork({"first": torch.arange(12) < 6}))
    assert model(long).shape == (5, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_may_be_cast_between_trace_and_removal(dtype: torch.dtype) -> None:
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1))
    model = nn.Sequential(*layers)
    structure = icycle.trace(model, IMAGE)
    icycle.prune(model.to(dtype), structure, icycle.SubNetwork.random(structure, 0.5))
    assert model(IMAGE.to(dtype)).dtype == dtype


def test_a_model_that_no_longer_runs_is_said_to_be_the_fault() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1))
    structure = icycle.trace(model, IMAGE)
    model[1] = nn.Flatten()
    before = snapshot(model)
    with pytest.raises(SurgeryError, match="Trace it again"):
        icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
    assert not differences(before, snapshot(model))
