"""Sizes that code takes from the wrong place are replaced, in a copy of the code, once heads go without their width."""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import icycle
from icycle.errors import ArtifactError, SurgeryError
from icycle.tracing import edits_of
from proof import prove, sizes

WIDTH, HEADS = 12, 3
EXAMPLE = torch.randn(2, 5, WIDTH, dtype=torch.float64)


def split_heads(tensor: Tensor, heads: int, inner: int) -> Tensor:
    batch, positions, _ = tensor.shape
    return tensor.reshape(batch, positions, heads, inner // heads).transpose(1, 2)


torch.fx.wrap("split_heads")  # as torchvision does: while torch.fx and torch.export trace, another stands in its place


def scaled(query: Tensor, like: Tensor, heads: int) -> Tensor:
    return query * (like.shape[-1] // heads) ** -0.5


class Attention(nn.Module):
    """Its code takes the width of the input for that of the heads together, as that of many models does."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, positions, width = x.shape
        split = self.qkv(x).reshape(batch, positions, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, positions, width))


class Root(Attention):
    def forward(self, x: Tensor) -> Tensor:
        batch, positions, width = x.shape
        split = self.qkv(x).view((batch, positions, 3, self.heads, width // self.heads))
        q, k, v = split.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)).softmax(-1)
        return self.proj(torch.reshape((weights @ v).transpose(1, 2), (batch, positions, width)))


class Called(Attention):
    def forward(self, x: Tensor) -> Tensor:
        inner = x.shape[-1]
        q, k, v = (split_heads(part, self.heads, inner) for part in self.qkv(x).chunk(3, -1))
        weights = (scaled(q, x, self.heads) @ k.transpose(-2, -1)).softmax(-1)
        return self.proj(self.join(weights @ v, x.size(2)))

    def join(self, mixed: Tensor, width: int) -> Tensor:
        return mixed.transpose(1, 2).reshape(mixed.shape[0], mixed.shape[2], width)


class Open(Attention):
    """A size is open already: all heads are joined by flattening."""

    def join(self, mixed: Tensor, x: Tensor) -> Tensor:
        return mixed.reshape(x.shape[0], -1, x.shape[2])

    def forward(self, x: Tensor) -> Tensor:
        batch, positions, width = x.shape
        q, k, v = self.qkv(x).view(batch, positions, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT).softmax(-1)
        return self.proj(self.join((weights @ v).transpose(1, 2), x))


class OpenInFront(Open):
    def join(self, mixed: Tensor, x: Tensor) -> Tensor:
        width = x.shape[2]
        return mixed.contiguous().view((-1, mixed.shape[1],
            self.heads * (width // self.heads)))  # fmt: skip


def network(attention: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), attention, nn.Linear(WIDTH, 4)).double().eval()


def without(structure: icycle.Structure, name: str, channel: int) -> icycle.SubNetwork:
    """Everything but one channel of a group."""
    keep = {group.name: torch.ones(group.size, dtype=torch.bool) for group in structure.prunable}
    keep[name][channel] = False
    return icycle.SubNetwork(keep)


def heads_and_embedding(structure: icycle.Structure) -> dict[str, int]:
    return {name: size for name, size in sizes(structure).items() if size > 1}


@pytest.mark.parametrize("kind", [Attention, Root, Called, Open, OpenInFront])
def test_heads_go_on_their_own(kind: type[Attention]) -> None:
    model = network(kind())
    structure = prove(model, EXAMPLE)
    assert heads_and_embedding(structure) == {"0": WIDTH, "1.qkv": HEADS, "1.proj": WIDTH}
    assert all(group.exact for group in structure.prunable)
    subnet = without(structure, "1.qkv", 1)
    pruned = icycle.prune(copy.deepcopy(model), structure, subnet)
    assert pruned[1].heads == HEADS - 1
    assert pruned[1].proj.weight.shape == (WIDTH, WIDTH // HEADS * (HEADS - 1))
    assert isinstance(pruned[1], kind) and type(pruned[1]).__name__ == kind.__name__
    assert type(model[1]) is kind and not edits_of(model[1])


class Fused(Attention):
    def forward(self, x: Tensor) -> Tensor:
        batch, positions, width = x.shape
        split = self.qkv(x).reshape(batch, positions, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, positions, width))


class Torchs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.qkv(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("kind", [Attention, Root, Called, Fused, Torchs])
def test_the_scale_keeps_its_value_when_heads_become_narrower(kind: type[nn.Module]) -> None:
    model = network(kind())
    structure = prove(model, EXAMPLE, head_width=True)
    assert structure["1.qkv#2"].size == WIDTH // HEADS
    assert all(group.exact for group in structure.prunable)
    subnet = icycle.SubNetwork.random(structure, 0.5, 0)
    zeroed = copy.deepcopy(model)
    icycle.testing.zero(zeroed, structure, subnet)
    torch.testing.assert_close(icycle.prune(model, structure, subnet)(EXAMPLE), zeroed(EXAMPLE))


def test_what_a_removal_does_not_concern_keeps_its_class() -> None:
    model = nn.Sequential(network(Attention()), nn.Linear(4, 8), nn.Linear(8, 2)).double()
    structure = icycle.trace(model, EXAMPLE)
    subnet = without(structure, "1", 0)
    assert type(icycle.prune(model, structure, subnet)[0][1]) is Attention


@pytest.fixture
def pruned() -> nn.Sequential:
    model = network(Called())
    structure = icycle.trace(model, EXAMPLE)
    return icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5, 0))  # type: ignore[return-value]


def test_a_second_removal_adds_to_the_first(pruned: nn.Sequential) -> None:
    assert edits_of(pruned[1])
    structure = prove(copy.deepcopy(pruned), EXAMPLE)
    assert sizes(structure)["1.qkv"] == 2


def test_copies_and_pickles(pruned: nn.Sequential) -> None:
    file = io.BytesIO()
    torch.save(pruned, file)
    file.seek(0)
    for twin in (copy.deepcopy(pruned), torch.load(file, weights_only=False)):
        assert type(twin[1]) is type(pruned[1])
        assert torch.equal(twin(EXAMPLE), pruned(EXAMPLE))


def test_export(pruned: nn.Sequential) -> None:
    exported = torch.export.export(pruned, (EXAMPLE,)).module()
    torch.testing.assert_close(exported(EXAMPLE), pruned(EXAMPLE))


def test_saving_and_loading(pruned: nn.Sequential, tmp_path: Path) -> None:
    loaded = icycle.load(icycle.save(pruned, tmp_path / "saved"), network(Called()))
    assert edits_of(loaded[1]) == edits_of(pruned[1])  # type: ignore[index]
    assert torch.equal(loaded(EXAMPLE), pruned(EXAMPLE))


def test_loading_into_other_code(pruned: nn.Sequential, tmp_path: Path) -> None:
    class Changed(Called):
        def join(self, mixed: Tensor, width: int) -> Tensor:
            return mixed.permute(0, 2, 1, 3).reshape(mixed.shape[0], mixed.shape[2], width)

    folder = icycle.save(pruned, tmp_path / "saved")
    fresh = network(Changed())
    with pytest.raises(ArtifactError, match=r"the code is another"):
        icycle.load(folder, fresh)
    assert type(fresh[1]) is Changed and fresh[1].proj.weight.shape == (WIDTH, WIDTH)


def test_code_that_cannot_be_rewritten_ties_heads_to_the_width() -> None:
    scope: dict[str, Any] = {"nn": nn, "Attention": Attention}
    exec(
        "class Hidden(Attention):\n"
        "    def forward(self, x):\n"
        "        batch, positions, width = x.shape\n"
        "        split = self.qkv(x).reshape(batch, positions, 3, self.heads, width // self.heads)\n"
        "        q, k, v = split.permute(2, 0, 3, 1, 4)\n"
        "        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)\n"
        "        return self.proj((weights @ v).transpose(1, 2).reshape(batch, positions, width))\n",
        scope,
    )
    structure = prove(network(scope["Hidden"]()), EXAMPLE)
    assert heads_and_embedding(structure) == {"0": HEADS, "1.proj": WIDTH}
    assert not structure.rewrites


class Levels(nn.Module):
    """One line of code for two widths: no one number could stand in it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.first, self.second = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.back = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            width = x.shape[-1]
            y = layer(x)
            heads = y.view(*y.shape[:2], self.heads, -1)
            x = heads.flatten(2) * (width // self.heads) ** -0.5
        return self.back(x)


class Resolution(nn.Module):
    """A quotient that depends on how long the input is."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.inner, self.back = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.inner(x).view(*x.shape[:2], self.heads, -1)
        return self.back(heads.flatten(2) * (x.shape[1] * x.shape[2] // self.heads) ** -0.5)


@pytest.mark.parametrize("kind", [Levels, Resolution])
def test_no_number_is_written_that_does_not_always_fit(kind: type[nn.Module]) -> None:
    structure = prove(nn.Sequential(nn.Linear(WIDTH, WIDTH), kind(), nn.Linear(WIDTH, 2)), EXAMPLE, seed=3)
    assert not structure.rewrites


class Loop(nn.Module):
    """One line joins heads and their width, and then positions and half of the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.inner, self.back = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.inner(x).view(*x.shape[:2], self.heads, -1)
        for own in (heads, heads.transpose(1, 2)):
            x = x + own.reshape(x.shape[0], -1, x.shape[2])
        return self.back(x)


class Chance(nn.Module):
    """As many positions as heads: what is joined only looks like heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.inner, self.back = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, : self.heads]
        heads = self.inner(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        return self.back(heads.reshape(x.shape[0], -1, x.shape[2]))


@pytest.mark.parametrize("kind", [Loop, Chance])
def test_an_open_size_is_flattened_only_where_that_is_always_the_same(kind: type[nn.Module]) -> None:
    structure = prove(nn.Sequential(nn.Linear(WIDTH, WIDTH), kind(), nn.Linear(WIDTH, 2)), EXAMPLE)
    assert not structure.rewrites


def test_saving_what_was_flattened(tmp_path: Path) -> None:
    model = network(Open())
    structure = icycle.trace(model, EXAMPLE)
    icycle.prune(model, structure, without(structure, "1.qkv", 1))
    assert [edit.keyword for edit in edits_of(model[1])] == ["", "flatten"]
    loaded = icycle.load(icycle.save(model, tmp_path / "saved"), network(Open()))
    longer = torch.randn(3, 9, WIDTH, dtype=torch.float64)
    assert torch.equal(loaded(longer), model(longer))


def test_of_two_sizes_of_one_call_one_is_left_open() -> None:
    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            outer = self.a(x[:, 0]).unsqueeze(2) * self.b(x[:, 0]).unsqueeze(1)
            return outer.reshape(x.shape[0], x.shape[2], x.shape[2]).sum(2)

    structure = prove(nn.Sequential(nn.Linear(WIDTH, WIDTH), Grid(), nn.Linear(WIDTH, 2)), EXAMPLE)
    assert heads_and_embedding(structure) == {"0": WIDTH, "1.b": WIDTH}


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1, keepdim=True) / x.shape[-1]


class Attribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = 8

    def forward(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.width).sum(-1, keepdim=True) * self.width**-0.5


@pytest.mark.parametrize("kind", [Mean, Attribute])
def test_a_size_that_serves_as_a_number_makes_a_removal_inexact(kind: type[nn.Module]) -> None:
    structure = prove(nn.Sequential(nn.Linear(WIDTH, 8), kind()), EXAMPLE)
    (group,) = structure.prunable
    assert "used as a number: a calculation at 1 (test_code.py:" in group.inexact_reason


def test_an_edit_of_a_function_that_is_gone() -> None:
    from icycle.tracing import Edit, rewritten

    with pytest.raises(SurgeryError, match="Use the same version"):
        rewritten(Attention, [Edit(("forward",), (0, 0, 0, 1), -1, "of another")])
