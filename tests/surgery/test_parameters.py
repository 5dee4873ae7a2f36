"""What hangs on a parameter moves along: hooks, markers, its class, gradients of any layout."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import icycle

EXAMPLE = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def remove_half(model: nn.Module, inputs: Tensor = EXAMPLE) -> icycle.SubNetwork:
    structure = icycle.trace(model, inputs)
    subnet = icycle.SubNetwork.random(structure, 0.5)
    icycle.prune(model, structure, subnet)
    return subnet


def test_hooks_move_with_their_parameter_and_their_handles_remove_them() -> None:
    """Torch has no public way to list them; this fails where it keeps them elsewhere one day."""
    model = network()
    seen: list[Any] = []
    first = model[0].weight.register_hook(lambda grad: seen.append(("before", grad.shape)))
    second = model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(("after", p.grad.shape)))
    untouched = model[2].bias.register_hook(lambda grad: seen.append(("bias", grad.shape)))
    remove_half(model)
    model(EXAMPLE).sum().backward()
    assert sorted(map(str, seen)) == sorted(
        map(str, [("before", torch.Size([4, 6])), ("after", torch.Size([4, 6])), ("bias", torch.Size([3]))])
    )
    for handle in (first, second, untouched):
        handle.remove()
    seen.clear()
    model(EXAMPLE).sum().backward()
    assert seen == []


class Marked(nn.Parameter):
    pass


def test_classes_markers_and_switches_stay() -> None:
    model = network()
    model[0].weight = Marked(model[0].weight.detach())
    model[0].weight.decay = 0.5  # type: ignore[attr-defined]
    model[0].bias.requires_grad_(False)
    remove_half(model)
    assert type(model[0].weight) is Marked
    assert model[0].weight.decay == 0.5
    assert not model[0].bias.requires_grad
    assert model[0].weight.requires_grad


def test_sparse_gradients_are_sliced() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 8, sparse=True), nn.Linear(8, 3))
    tokens = torch.tensor([[1, 2, 2]])
    model(tokens).sum().backward()
    old = model[0].weight.grad.to_dense()
    kept = remove_half(model, tokens).keep["0"]
    assert model[0].weight.grad.layout == torch.sparse_coo
    assert torch.equal(model[0].weight.grad.to_dense(), old[:, kept])


def test_gradients_with_a_graph_and_without_strides_of_their_own() -> None:
    model = network()
    weight = model[0].weight
    weight.grad = torch.autograd.grad(model(EXAMPLE).square().sum(), weight, create_graph=True)[0]
    model[2].weight.grad = torch.ones(()).expand(3, 8)
    remove_half(model)
    assert model[0].weight.grad is not None and model[0].weight.grad.grad_fn is None
    assert torch.equal(model[2].weight.grad, torch.ones(3, 4))


def test_changed_attributes_are_remembered_in_copies() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.unrelated = 8, 5
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu().view(-1, self.width))

    model = Heads()
    remove_half(model)
    assert model.width == 4
    assert icycle.surgery.changed_attributes(copy.deepcopy(model)) == [("", "width", None)]
