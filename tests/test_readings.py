"""What the weights of a model are seen to read: whatever precision and mode the model is run in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from icycle.probing import Reading, watching


def bf16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@torch.no_grad()
def readings_of(model: nn.Module, x: torch.Tensor) -> list[Reading]:
    found: list[Reading] = []
    with watching(model, found.append):
        model(x)
    return found


def places(readings: list[Reading]) -> list[tuple[object, ...]]:
    return [
        (reading.parameter, reading.dim, reading.row_dim, reading.rows, tuple(reading.inputs.shape), reading.bias)
        for reading in readings
    ]


class Pieces(nn.Module):
    """A convolution, one over a sequence, and rows of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.sequence = nn.Conv2d(3, 4, 3), nn.ConvTranspose1d(4, 5, 2)
        self.joined = nn.Linear(5, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.sequence(self.image(x).flatten(2)).mean(dim=2)
        weight, bias = self.joined.weight[3:7], self.joined.bias[3:7]
        return F.linear(x, weight, bias)


@pytest.mark.parametrize("around", [bf16, torch.inference_mode], ids=["autocast", "inference mode"])
def test_a_weight_is_seen_wherever_the_model_runs(
    around: Callable[[], contextlib.AbstractContextManager[object]],
) -> None:
    model, x = Pieces(), torch.randn(2, 3, 5, 5)
    expected = readings_of(model, x)
    assert [reading.parameter for reading in expected] == ["image.weight", "sequence.weight", "joined.weight"]
    assert (expected[2].rows, expected[2].bias) == (range(3, 7), ("joined.bias", 3))
    with around():
        assert places(readings_of(model, x)) == places(expected)


class Masked(nn.Module):
    def __init__(self, masks: bool) -> None:
        super().__init__()
        self.weight, self.masks = nn.Parameter(torch.randn(4, 3)), masks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.to(torch.float64)
        return x @ (weight.mul_(2.0) if self.masks else weight).T


@pytest.mark.parametrize("masks", [False, True])
def test_a_copy_that_is_changed_is_a_weight_that_is_computed(masks: bool) -> None:
    found = readings_of(Masked(masks), torch.randn(2, 3, dtype=torch.float64))
    assert [reading.parameter for reading in found] == ([] if masks else ["weight"])


@torch.no_grad()
def test_an_operation_computes_with_what_its_observer_makes_of_the_weight() -> None:
    model, x = nn.Linear(3, 4), torch.randn(5, 3)

    def double(reading: Reading) -> None:
        assert not torch.is_autocast_enabled("cpu")
        model.weight.mul_(2.0)

    with bf16():
        before = model(x)  # autocast keeps its copy of the weight until its block ends
        with watching(model, double):
            within = model(x)
        after = model(x)
    torch.testing.assert_close(within - model.bias, 2 * (before - model.bias), rtol=0.02, atol=0.03)
    torch.testing.assert_close(after, within)


def test_gradients_are_there_after_a_pass_without_them() -> None:
    model, x = nn.Linear(3, 4), torch.randn(5, 3)
    with bf16():
        readings_of(model, x)
        model(x).sum().backward()
    assert model.weight.grad is not None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("around", [contextlib.nullcontext, bf16, torch.inference_mode])
def test_what_was_folded_for_a_product_is_told(
    around: Callable[[], contextlib.AbstractContextManager[object]], bias: bool
) -> None:
    model, x = nn.Linear(3, 4, bias=bias), torch.randn(6, 5, 3)
    with around():
        (flat,), (deep,), (turned,) = (readings_of(model, each) for each in (x[0], x, x.transpose(0, 1)))
    assert (flat.folded, deep.folded, turned.folded) == ((), (6, 5), (5, 6))
    assert torch.allclose(deep.inputs.float().unflatten(0, deep.folded), x, rtol=0.01)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 3, 4, stride=3, padding=2),
        nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
        nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(2, 3, (2, 4), stride=(3, 2), padding=(1, 0), dilation=(2, 1), output_padding=(2, 1)),
        nn.Conv3d(2, 3, 2, padding=1),
    ],
)
def test_a_window_knows_how_many_positions_come_out(layer: nn.Module) -> None:
    dims = len(layer.kernel_size)  # type: ignore[arg-type]
    x = torch.randn(1, 2, *range(7, 7 + dims))
    (reading,) = readings_of(layer, x)
    assert reading.window is not None
    assert reading.window.outputs == tuple(layer(x).shape[2:])
