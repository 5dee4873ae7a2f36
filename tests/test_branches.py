"""Branches on sizes: what a model's code has found out by comparing them holds after every removal, or nothing goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import icycle
from icycle.reasons import Kind
from icycle.tracing._sizes import FromAttribute, TracedInt


class Branch(nn.Module):
    """Two layers whose outputs (8 channels from 4) are joined by `decide`, which gets their sizes, and the module."""

    def __init__(self, decide: Callable[[Any, Any, Any], Any], others: int = 8) -> None:
        super().__init__()
        self.inner, self.other = nn.Linear(4, 8), nn.Linear(4, others)
        self.outer, self.last = nn.Linear(8, 3), nn.Linear(others, 3)
        self.decide = decide
        self.width = 8

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.inner(x), self.other(x)
        factor = 3.0 if self.decide(y.shape, z.shape, self) else 0.5
        return self.outer(y) + factor * self.last(z)


def holds(shape: Any, expected: Any) -> bool:
    assert shape[1] == expected
    return True


PINNED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "literal": lambda y, z, model: y[1] == 8,
    "from the left": lambda y, z, model: 8 == y[1],  # noqa: SIM300
    "shape of literals": lambda y, z, model: y == (5, 8),
    "other value": lambda y, z, model: y[1] != 7,
    "greater": lambda y, z, model: y[1] > 2,
    "greater than a fraction": lambda y, z, model: y[1] > 5.5,
    "rest": lambda y, z, model: y[1] % 2,
    "rest of a sum": lambda y, z, model: (y[1] + 1) % 2 == 1,
    "smallest": lambda y, z, model: min(y[1], 6) == 6,
    "one of": lambda y, z, model: y[1] in (4, 8),
    "table": lambda y, z, model: {8: True}.get(y[1]),
    "quotient": lambda y, z, model: y[1] // 4 > 1,
    "truth": lambda y, z, model: y[1] - 1,
    "numpy": lambda y, z, model: y[1] >= torch.arange(9).numpy()[8],
}


@pytest.mark.parametrize("decide", PINNED.values(), ids=PINNED)
def test_what_a_branch_has_read_stays(decide: Callable[[Any, Any, Any], Any]) -> None:
    structure = icycle.trace(Branch(decide), torch.randn(5, 4), proof="shapes")
    group = structure["inner"]
    assert group.pinned_by is not None
    assert group.pinned_by.kind is Kind.BRANCH
    assert "test_branches.py" in group.pinned_by.source
    assert structure["other"].prunable


FREE: dict[str, Callable[[Any, Any, Any], Any]] = {
    "truth": lambda y, z, model: y[1],
    "not more": lambda y, z, model: y[1] > 8,
    "at least one": lambda y, z, model: max(y[1], 1) >= 0.5,
    "never": lambda y, z, model: y[1] in (9, 64),
    "no whole number": lambda y, z, model: y[1] == 7.5,
    "infinite": lambda y, z, model: y[1] < float("inf"),
    "no number": lambda y, z, model: y[1] is None or y[1] == "8",
    "itself": lambda y, z, model: y[1] == y[1] * 2 // 2,
    "rest of twice": lambda y, z, model: 2 * y[1] % 2,
    "rest below": lambda y, z, model: y[1] % 3 < 3,
    "quotient below": lambda y, z, model: y[1] // 3 < 3,
    "positions": lambda y, z, model: y[0] == 5 and y[0] > 1,
    "attribute": lambda y, z, model: holds(y, model.width),
    "attribute as a bound": lambda y, z, model: y[1] <= model.width,
}


@pytest.mark.parametrize("decide", FREE.values(), ids=FREE)
def test_what_holds_for_every_count_does_not_matter(decide: Callable[[Any, Any, Any], Any]) -> None:
    model, x = Branch(decide).double(), torch.randn(5, 4).double()
    structure = icycle.trace(model, x)
    assert structure["inner"].prunable
    assert structure["inner"].exact
    assert structure["other"].prunable
    assert icycle.testing.removal_error(model, x, icycle.SubNetwork.random(structure, 0.5)) <= 1e-9


@pytest.mark.parametrize("decide", [lambda y, z, m: y == z, lambda y, z, m: y[1] != z[1]], ids=["shapes", "sizes"])
def test_sizes_found_to_be_equal_stay_equal(decide: Callable[[Any, Any, Any], Any]) -> None:
    group = icycle.trace(Branch(decide), torch.randn(5, 4))["inner"]
    assert group.prunable
    assert {"inner.weight", "other.weight"} <= {part.parameter for part in group.slices}


def test_sizes_found_to_differ_stay_where_they_could_meet() -> None:
    structure = icycle.trace(Branch(lambda y, z, model: y[1] == z[1], 6), torch.randn(5, 4))
    assert not structure["inner"].prunable and not structure["other"].prunable


def test_an_attribute_in_an_assertion_follows() -> None:
    model, x = Branch(FREE["attribute"]), torch.randn(5, 4)
    structure = icycle.trace(model, x)
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
    assert model.width == model.inner.out_features == 4
    model(x)


class Depthwise(nn.Module):
    """Filters in a buffer, for the channels that it was made for; other numbers pass by."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.register_buffer("kernel", torch.randn(8, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if y.shape[1] == self.kernel.shape[0]:
            y = F.conv2d(y, self.kernel, padding=1, groups=y.shape[1])
        return self.last(y)


def test_a_removal_keeps_a_depthwise_convolution_with_a_buffer() -> None:
    model, x = Depthwise().double(), torch.randn(2, 3, 5, 5).double()
    structure = icycle.trace(model, x)
    assert structure["first"].prunable
    subnet = icycle.SubNetwork.random(structure, 0.5)
    assert icycle.testing.removal_error(model, x, subnet) <= 1e-9
    icycle.prune(model, structure, subnet)
    assert model.kernel.shape[0] == model.first.out_channels == 4
    model(x)


def test_what_torch_compares_is_no_branch_of_the_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, groups=8), nn.Conv2d(8, 2, 1))
    assert icycle.trace(model, torch.randn(2, 3, 5, 5))["0"].prunable


def test_a_traced_size_compares_and_hashes_as_its_number() -> None:
    size = TracedInt(6, FromAttribute(("", "n", None), 6))
    assert hash(size) == hash(6) and {6: "x"}[size] == "x"
    assert size == 6 == size and size != 5 and size < 6.5 and size >= 6.0 and 5 < size <= 6 and size == True + 5
    assert (size == "6") is False and (size != None) is True  # noqa: E711
    with pytest.raises(TypeError):
        assert size < "7"  # type: ignore[operator]
