"""The smallest form of what random networks have found."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import icycle
from proof import prove, sizes

EXAMPLE = torch.randn(2, 3, 5)


class Function(nn.Module):
    """A forward function, over a weight if there is one."""

    def __init__(self, forward: Callable[..., Tensor], *shape: int) -> None:
        super().__init__()
        self.function = forward
        self.weight = nn.Parameter(torch.randn(shape)) if shape else None

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) if self.weight is None else self.function(x, self.weight)


def projected(heads: int, inner: int, outer: int) -> Function:
    return Function(lambda x, weight: torch.einsum("bnc,hcd->bnhd", x, weight).flatten(2), heads, inner, outer)


def test_a_product_that_vanished_is_not_taken_for_the_next() -> None:
    """With one channel in front of the einsum torch multiplies; the layer behind it has a product of the same shape."""
    model = nn.Sequential(nn.Linear(5, 2), projected(1, 2, 6), nn.Linear(6, 4), nn.GLU(), nn.Linear(2, 4)).eval()
    structure = icycle.trace(model, EXAMPLE)
    assert sizes(structure) == {"0": 2, "1": 6, "2": 2}


def test_a_product_with_a_weight_is_no_attention() -> None:
    """It is a bmm like that of two activations, but its widths are channels like any others."""
    structure = prove(nn.Sequential(nn.Linear(5, 4), projected(3, 4, 6), nn.Linear(18, 2)), EXAMPLE)
    assert sorted(sizes(structure).values()) == [3, 4, 6]


def test_a_product_of_activations_without_heads_may_lose_its_widths() -> None:
    """Attention between positions whose batch is the input's: there are no heads that should stay as they are."""
    attention = Function(lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x)
    structure = prove(nn.Sequential(nn.Linear(5, 6), attention, nn.Linear(6, 2)), EXAMPLE)
    assert sizes(structure) == {"0": 6}


def test_a_length_is_not_cut_short_as_a_bound_is() -> None:
    structure = prove(nn.Sequential(nn.Linear(5, 8), Function(lambda x: x.narrow(2, 0, 6)), nn.Linear(6, 2)), EXAMPLE)
    assert sizes(structure) == {"0": 2}


def test_a_restriding_that_comes_and_goes_is_no_fault() -> None:
    """torch's pooling sets strides anew only where the memory is not laid out as usual, which a removal may change."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        Function(lambda x: x.permute(0, 2, 3, 1)),
        nn.Linear(4, 2),
        Function(lambda x: x.permute(0, 3, 1, 2)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 2),
    )
    structure = prove(model, torch.randn(2, 3, 4, 4))
    assert sizes(structure) == {"0": 4, "2": 2}
