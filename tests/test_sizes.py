"""Sizes that serve as numbers: whatever a model's code computes with one, a removal that changes it is not exact."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.tracing._sizes import FromAttribute, TracedInt

UNSEEN = {  # no number comes of these, or Python does not ask; see TracedInt
    *"__class__ __delattr__ __dir__ __doc__ __getattribute__ __getnewargs__ __getstate__ __init__".split(),
    *"__init_subclass__ __new__ __reduce__ __reduce_ex__ __setattr__ __sizeof__ __subclasshook__".split(),
    *"__format__ __repr__ __str__ __hash__ __index__".split(),
    *"denominator from_bytes imag numerator real is_integer".split(),
}
FOLLOWED = set("__neg__ __pos__ __lshift__ __rshift__".split()) | {
    f"__{way}{name}__" for way in ("", "r") for name in ("add", "sub", "mul", "floordiv", "mod")
}
ARGUMENTS = {"to_bytes": (2, "big"), "__round__": (), "__rlshift__": (1,), "__rrshift__": (9,), "__pow__": (2,)}
UNARY = set(
    "__abs__ __bool__ __ceil__ __floor__ __float__ __int__ __invert__ __trunc__ bit_length bit_count conjugate".split()
)


@pytest.mark.parametrize("name", sorted(set(dir(int)) - UNSEEN))
def test_every_method_of_int_is_followed_or_reported(name: str) -> None:
    seen: list[str] = []
    size = TracedInt(6, FromAttribute(("", "n", None), 6, lambda size, how, operand: seen.append(how)))
    unary = name in UNARY or name in ("as_integer_ratio", "__neg__", "__pos__")
    arguments = () if unary else ARGUMENTS.get(name, (2,))
    result = getattr(size, name)(*arguments)
    assert bool(seen) != (name in FOLLOWED)
    assert result == getattr(6, name)(*arguments)
    assert isinstance(result, TracedInt) == (name in FOLLOWED)


USES: dict[str, Callable[[Tensor, Any], Any]] = {
    "reciprocal": lambda x, c: x * (1 / c),
    "times a float": lambda x, c: x * (c * 0.5),
    "int": lambda x, c: x * int(c),
    "rest": lambda x, c: x * (c % 5 + 1),
    "absolute": lambda x, c: x * abs(c),
    "rounded": lambda x, c: x * round(c),
    "shifted": lambda x, c: x * (c >> 1),
    "numpy": lambda x, c: x * float(np.sqrt(c)),
    "root": lambda x, c: x * math.sqrt(c),
    "length": lambda x, c: x * len(x[0]),
    "tensor": lambda x, c: x * torch.tensor(c),
    "nested": lambda x, c: x * torch.tensor([[1.0, c]])[0, 1],
    "full": lambda x, c: x * torch.full((1,), c),
    "full by name": lambda x, c: x * torch.full((1,), fill_value=c),
    "new_full": lambda x, c: x * x.new_full((1,), c),
    "new_tensor": lambda x, c: x * x.new_tensor(c),
    "divide": lambda x, c: torch.divide(x, c),
    "alpha": lambda x, c: torch.add(x, x, alpha=c),
    "clamp": lambda x, c: (3 * x).clamp(-c, c),
}


class Use(nn.Module):
    def __init__(self, use: Callable[[Tensor, Any], Any]) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 3)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return self.outer(self.use(y, y.shape[1]))


@pytest.mark.parametrize("use", USES)
def test_a_removal_that_changes_a_number_is_not_exact(use: str) -> None:
    structure = icycle.trace(Use(USES[use]), torch.randn(8, 4))
    group = structure["inner"]
    assert not group.exact and (not group.prunable or "used as a number" in group.inexact_reason)


def test_sizes_of_positions_do_not_matter() -> None:
    structure = icycle.trace(Use(lambda x, c: x * (0.5 * len(x)) * (x.shape[0] % 3)), torch.randn(8, 4))
    assert structure["inner"].exact


SEEN_BY_TORCH: dict[str, Callable[[Tensor, Any], Any]] = {
    "float first": lambda x, c: x * (1.0 / c),
    "logarithm": lambda x, c: x * math.log(c),
    "exponent": lambda x, c: x.abs() ** math.log10(c),
    "bounds": lambda x, c: (3 * x).clamp(0.1 * c - 2, 0.1 * c),
    "numpy": lambda x, c: x * float(np.sqrt(c)),
    "in place": lambda x, c: x.clone().mul_(0.1 * c),
    "a default": lambda x, c: torch.add(x, x, alpha=c // 7) * math.log(c),
    "a table": lambda x, c: x * {8: 0.5}.get(c, 0.25),
}


@pytest.mark.parametrize("proof", ["shapes", "numbers"])
@pytest.mark.parametrize("use", SEEN_BY_TORCH)
def test_what_python_does_not_show_is_seen_by_the_number_that_torch_gets(use: str, proof: Any) -> None:
    model, x = Use(SEEN_BY_TORCH[use]), torch.randn(8, 4)
    structure = icycle.trace(model, x, proof=proof)
    assert not structure["inner"].exact
    assert structure.macs() == 8 * (4 * 8 + 8 * 3)


def test_a_number_that_is_another_in_every_run_says_nothing() -> None:
    dice = random.Random(0)
    structure = icycle.trace(Use(lambda x, c: x * dice.random()), torch.randn(8, 4), proof="shapes")
    assert structure["inner"].exact


def test_only_the_group_that_is_counted_is_inexact() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.c(self.b(y * (1.0 / y.shape[1])).relu())

    structure = icycle.trace(Two(), torch.randn(3, 4), proof="shapes")
    assert not structure["a"].exact and structure["b"].exact
    assert "aten::mul" in structure["a"].inexact_reason


class Told(nn.Module):
    """Uses an attribute by which a layer tells the shape of its weight."""

    def __init__(self, layer: nn.Module, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Conv2d(3, 8, 1), layer, nn.Conv2d(8, 2, 1)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.use(self.layer, self.layer(self.first(x))))


TOLD: dict[str, tuple[nn.Module, Callable[[Any, Tensor], Tensor]]] = {
    "out_channels": (nn.Conv2d(8, 8, 1), lambda layer, x: x / layer.out_channels),
    "in_channels": (nn.Conv2d(8, 8, 1), lambda layer, x: x / layer.in_channels),
    "out_channels of transposed": (nn.ConvTranspose2d(8, 8, 1), lambda layer, x: x * (layer.out_channels * 0.5)),
    "num_features": (nn.BatchNorm2d(8), lambda layer, x: x * layer.num_features**0.5),
}


@pytest.mark.parametrize("name", TOLD)
def test_an_attribute_that_a_removal_sets_is_a_size(name: str) -> None:
    structure = icycle.trace(Told(*TOLD[name]), torch.randn(2, 3, 5, 5), proof="shapes")
    assert any("used as a number" in group.inexact_reason for group in structure.groups if not group.exact)


def test_a_shape_from_such_an_attribute_follows() -> None:
    def flat(layer: Any, x: Tensor) -> Tensor:
        assert x.shape[1] == layer.out_channels
        return x.view(len(x), layer.out_channels, -1).unflatten(2, (5, 5))

    model, x = Told(nn.Conv2d(8, 8, 1), flat).double(), torch.randn(2, 3, 5, 5).double()
    structure = icycle.trace(model, x)
    assert structure["layer"].prunable
    assert structure["layer"].exact
    assert icycle.testing.removal_error(model, x, icycle.SubNetwork.random(structure, 0.5)) <= 1e-9


NOT_SEEN: dict[str, Callable[[int], float]] = {  # those that docs/guide.md lists
    "range": lambda n: sum(0.1 for _ in range(n)),
    "item": lambda n: [0.5 * k for k in range(20)][n],
    "float divided": lambda n: 1.0 / n,
    "float times": lambda n: 2.5 * n,
    "float compared": lambda n: 1.0 if 7.5 < n else 2.0,  # noqa: SIM300
    "logarithm": lambda n: math.log(n),
    "divisor": lambda n: float(math.gcd(n, 6)),
    "combinations": lambda n: float(math.comb(n, 2)),
    "text": lambda n: float(str(n)),
    "formatted": lambda n: float(f"{n}"),
}


class Unseen(nn.Module):
    def __init__(self, number: Callable[[int], float]) -> None:
        super().__init__()
        self.first, self.last, self.number = nn.Linear(5, 8), nn.Linear(8, 3), number

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y * torch.tensor([self.number(y.shape[1])]))


@pytest.mark.parametrize("name", NOT_SEEN)
def test_what_the_documentation_says_is_not_seen_is_found_by_numbers(name: str) -> None:
    model, inputs = Unseen(NOT_SEEN[name]), torch.randn(4, 5)
    assert icycle.trace(model, inputs, proof="shapes")["first"].exact
    assert not icycle.trace(model, inputs)["first"].exact
