"""Tracing leaves everything as it was, costs no memory for weights, and fails with a message that helps."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.errors import TraceError
from icycle.tracing import named_modules, named_tensors
from networks import IMAGE, TOKENS, Branches, Words, differences, snapshot
from proof import prove

MODELS = {"branches": (Branches, IMAGE), "words": (Words, TOKENS)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_left_as_it_was(name: str, training: bool) -> None:
    build, inputs = MODELS[name]
    model = build().train(training)
    next(iter(model.modules())).register_forward_hook(lambda *_: None)
    list(model.modules())[2].requires_grad_(False)
    before, keys = snapshot(model), list(model.state_dict())
    icycle.trace(model, inputs)
    assert differences(before, snapshot(model)) == []
    assert list(model.state_dict()) == keys
    assert all(module.training is training for module in model.modules())
    assert not any(hasattr(tensor, "_icycle") for tensor in (*model.parameters(), *model.buffers(), inputs))


def test_random_states_and_switches_are_left_as_they_were() -> None:
    class Dice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * random.random() * np.random.rand() * torch.rand(())

    model, x = Dice(), torch.randn(2, 4)
    states: Any = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    icycle.trace(model, x)
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()  # type: ignore[index]
    assert states[2] == torch.get_rng_state().tolist()
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


def test_integer_buffers_that_the_run_writes_are_left_as_they_were() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
            return self.a(x - self.mean) if self.calls > 0 else x

    model = Counter()
    icycle.trace(model, torch.randn(2, 4))
    assert model.calls == 0
    assert model.mean.abs().sum() == 0


def test_the_same_model_gives_the_same_structure() -> None:
    model = Branches()
    one, two = icycle.trace(model, IMAGE), icycle.trace(model, IMAGE)
    assert one.fingerprint == two.fingerprint
    assert [group.name for group in one.groups] == [group.name for group in two.groups]


def test_a_pruned_model_traces_to_what_was_predicted() -> None:
    model = Branches()
    structure = icycle.trace(model, IMAGE)
    subnet = icycle.SubNetwork.random(structure, 0.5)
    again = icycle.trace(icycle.prune(model, structure, subnet), IMAGE)
    assert [group.name for group in again.prunable] == [group.name for group in structure.prunable]
    assert [group.size for group in again.prunable] == subnet.counts(structure).tolist()
    assert again.macs() == structure.macs(subnet)
    assert again.params() == structure.params(subnet)
    assert again.activation_bytes() == structure.activation_bytes(subnet)


def test_models_on_the_meta_device_can_be_traced() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(10_000, 100_000), nn.ReLU(), nn.Linear(100_000, 10_000))
    structure = icycle.trace(model, torch.empty(1, 10_000, device="meta"))
    assert structure.prunable[0].size == 100_000


def test_an_input_the_model_rejects_is_described() -> None:
    with pytest.raises(TraceError, match=r"Branches to run on the example inputs \(float32\[2, 5, 4, 4\]\)"):
        icycle.trace(Branches(), torch.randn(2, 5, 4, 4))


def test_a_model_that_cannot_be_copied_is_named() -> None:
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("no copies")

    with pytest.raises(TraceError, match=r"no copies.*attribute"):
        icycle.trace(Stubborn(2, 2), torch.randn(1, 2))


def test_a_model_without_channels_to_remove_has_no_prunable_group() -> None:
    structure = icycle.trace(nn.Linear(3, 2), torch.randn(1, 3))
    assert structure.prunable == ()
    assert {group.reason for group in structure.groups} == {"an input of the model", "an output of the model"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    structure = icycle.trace(Branches().to(dtype), IMAGE.to(dtype))
    assert structure.fingerprint == icycle.trace(Branches(), IMAGE).fingerprint


def test_a_constant_made_of_an_attribute_is_constant() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = 3
            self.inner, self.out = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights = torch.tensor([1, self.last * 2 - 1], dtype=x.dtype)
            return self.out(self.inner(x)) * weights

    model = Weighted()
    structure = prove(model, torch.randn(2, 4))
    assert [group.name for group in structure.prunable] == ["inner"]


class Recording(nn.Module):
    """Hooks itself at its first call to get at what its parts return, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
        self.head = nn.Linear(11, 2)
        self.hooked = False

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        if not self.hooked:
            for part in (self.parts[1], self.parts[2]):
                part.register_forward_hook(lambda module, args, output: module.found.append(output))
            self.hooked = True
        for part in self.parts:
            part.found = found
        self.parts(x)
        for part in self.parts:
            del part.found
        return self.head(torch.cat(found, dim=1))


@pytest.mark.parametrize("called", [False, True])
def test_a_model_that_needs_its_hooks_keeps_them(called: bool) -> None:
    model, example = Recording().double(), torch.randn(2, 4, dtype=torch.float64)
    if called:
        model(example)
    structure = prove(model, example)
    assert [(group.name, group.size) for group in structure.prunable] == [("parts.0", 6), ("parts.2", 5)]
    assert any("without the hooks" in note for note in structure.notes) == called


def test_names_are_those_that_torch_gives() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
            self.again = nn.ModuleDict({"in": self.first, "own": nn.Linear(3, 3, bias=False)})
            self.tied = nn.Linear(3, 3)
            self.tied.weight = self.first[0].weight
            self.nothing = None
            self.register_buffer("mean", self.first[1].running_mean)
            self.register_parameter("absent", None)

    model = Shared()
    assert list(named_modules(model)) == list(model.named_modules())
    expected = [*model.named_parameters(), *model.named_buffers()]
    assert [(name, id(tensor)) for name, tensor in named_tensors(model)] == [(n, id(t)) for n, t in expected]


def test_a_trace_in_inference_mode_is_the_same() -> None:
    model, x = Branches().eval(), IMAGE
    with torch.inference_mode():
        found = icycle.trace(model, x)
    assert repr(found) == repr(icycle.trace(model, x))
    assert found.prunable
