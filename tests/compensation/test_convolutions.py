"""Consumers that are convolutions, against least squares over all that their windows see."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import icycle
from icycle.compensation import _vectors
from icycle.compensation._vectors import reach, vectors
from icycle.probing import Reading, watching

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d


def reading_of(layer: nn.Module, x: torch.Tensor) -> Reading:
    found: list[Reading] = []
    with torch.no_grad(), watching(layer, found.append):
        layer(x)
    return found[0]


class Case:
    """16 channels, of which some go, read by `layer`."""

    def __init__(self, layer: Layer, *sizes: int, damping: float | None = 1e-7) -> None:
        torch.manual_seed(0)
        dims = len(layer.kernel_size)
        first = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](3, layer.in_channels, 3, padding=1)
        self.before = nn.Sequential(first, nn.ReLU(), layer).double().eval()
        self.x = torch.randn(12, 3, *sizes, dtype=torch.float64)
        self.x[..., ::2] *= 4  # what a stride reads is unlike what it skips
        structure = icycle.trace(self.before, self.x[:1])
        subnet = icycle.SubNetwork.random(structure, ratio=0.4)
        self.plain = icycle.prune(copy.deepcopy(self.before), structure, subnet)
        fitted = icycle.compensate(copy.deepcopy(self.before), structure, subnet, [self.x], damping=damping)
        self.fitted = icycle.prune(fitted, structure, subnet)
        self.left = self.plain[:2](self.x).detach()

    def error(self, model: nn.Module) -> float:
        return float((model(self.x) - self.before(self.x)).square().mean().detach())

    def least(self, windows: torch.Tensor) -> float:
        """The error of least squares on windows (positions, elements)."""
        if self.before[2].bias is not None:
            windows = torch.cat((windows, windows.new_ones(len(windows), 1)), dim=1)
        wanted = self.before(self.x).detach().movedim(1, -1).flatten(0, -2)
        return float((windows @ torch.linalg.lstsq(windows, wanted).solution - wanted).square().mean())


def seen(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """(positions, elements): what each of the kernel's elements reads, by a convolution with nothing but a 1 there."""
    channels, taps = x.shape[1], layer.kernel_size
    eye = torch.eye(channels * torch.Size(taps).numel(), dtype=x.dtype).view(-1, channels, *taps)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(taps) - 1]
    return convolve(x, eye, None, layer.stride, layer.padding, layer.dilation).movedim(1, -1).flatten(0, -2)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (nn.Conv2d(16, 5, 1, stride=2), (11, 11)),
        (nn.Conv2d(16, 5, 1, stride=2, padding=1), (8, 9)),
        (nn.Conv2d(16, 5, 1, stride=2, bias=False), (11, 11)),
        (nn.Conv2d(16, 5, 3, stride=2, padding=1), (9, 8)),
        (nn.Conv1d(16, 5, 3, padding=1), (30,)),
        (nn.Conv1d(16, 5, 3, stride=2, padding=2, dilation=2, bias=False), (31,)),
        (nn.Conv3d(16, 5, (2, 1, 3), stride=(1, 2, 1), padding=(0, 1, 1)), (5, 4, 6)),
    ],
    ids=str,
)
def test_a_convolution_is_refitted_to_what_its_windows_see(layer: Layer, sizes: tuple[int, ...]) -> None:
    case = Case(layer, *sizes)
    least = case.least(seen(layer, case.left))
    assert case.error(case.fitted) == pytest.approx(least, rel=1e-3, abs=1e-8)
    assert case.error(case.plain) > 1.2 * least


def test_a_convolution_over_a_sequence_is_that_over_an_image_of_one_row() -> None:
    line, image = nn.Conv1d(16, 5, 3, padding=1), nn.Conv2d(16, 5, (1, 3), padding=(0, 1))
    x = torch.randn(4, 16, 30)
    here, there = reading_of(line, x), reading_of(image, x[:, :, None])
    torch.testing.assert_close(vectors(here, 3, 1), vectors(there, 3, 1))


@pytest.mark.parametrize("samples", [2048, 20])
def test_windows_are_those_of_unfold(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_vectors, "_SAMPLES", samples)
    layer = nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(1, 2))
    x = torch.randn(2, 2, 9, 12)
    apart = {2048: 1, 20: 3}[samples]  # of 2 * 11 * 6 positions
    stride = (apart, 2 * apart)
    expected = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, stride)  # type: ignore[arg-type]
    torch.testing.assert_close(vectors(reading_of(layer, x), 6, 1), expected.movedim(1, 2).flatten(0, 1))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(2, 2, 4, stride=2),
        nn.ConvTranspose2d(2, 2, (3, 2), stride=(2, 3), padding=(1, 0), dilation=(1, 2), output_padding=(1, 2)),
        nn.ConvTranspose1d(2, 2, 5, stride=2, padding=3),
        nn.Conv2d(2, 2, 7, padding=3),
        nn.Conv2d(2, 2, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(1, 3)),
        nn.Conv3d(2, 2, 3, padding=(1, 0, 2)),
    ],
    ids=str,
)
@torch.no_grad()
def test_the_reach_of_a_tap_is_the_mean_of_what_it_makes_of_ones(layer: Layer) -> None:
    assert layer.bias is not None
    layer.bias.zero_()
    ones = torch.ones(1, 2, *range(6, 6 + len(layer.kernel_size)))
    expected = []
    for tap in range(layer.weight[0, 0].numel()):
        layer.weight.zero_()
        layer.weight[0, 0].view(-1)[tap] = 1.0
        expected.append(layer(ones)[:, 0].double().mean())
    torch.testing.assert_close(reach(reading_of(layer, ones), 1), torch.stack(expected), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("kernel", "stride", "bias"), [(2, 2, True), (2, 2, False), (4, 2, True), (3, 2, True), (3, 1, True), (4, 4, True)]
)
def test_a_transposed_convolution_loses_less_and_keeps_its_mean(kernel: int, stride: int, bias: bool) -> None:
    case = Case(nn.ConvTranspose2d(16, 5, kernel, stride=stride, bias=bias), 10, 10)
    assert case.error(case.fitted) < 0.9 * case.error(case.plain)
    if bias:
        means = [model(case.x).mean(dim=(0, 2, 3)) for model in (case.fitted, case.before)]
        torch.testing.assert_close(*means, rtol=1e-9, atol=1e-9)
    if kernel == stride:  # the taps reach different positions: each is a regression of its own, but for the bias
        ones = torch.eye(kernel**2, dtype=torch.float64).reshape(1, -1, kernel, kernel)
        channels = case.left.shape[1]
        reached = F.conv_transpose2d(case.left, ones.repeat(channels, 1, 1, 1), stride=stride, groups=channels)
        least = case.least(reached.movedim(1, -1).flatten(0, -2))
        assert case.error(case.fitted) < (1.05 if bias else 1.0001) * least


@pytest.mark.parametrize("size", [2, 4])
def test_means_that_padding_takes_part_of_are_refitted_with_the_weights(size: int) -> None:
    """Too many channels for all of the window: each tap is refitted alike, and few reach the borders."""
    case = Case(nn.Conv2d(200, 5, 3, padding=1), size, size, damping=None)
    assert case.error(case.fitted) < 0.15 * case.error(case.plain)
    shift, plain = (
        (model(case.x) - case.before(case.x)).mean(dim=(0, 2, 3)).norm() for model in (case.fitted, case.plain)
    )
    assert shift < 0.05 * plain


def test_a_transposed_convolution_in_groups_is_left_as_it_is() -> None:
    layer = nn.ConvTranspose2d(16, 6, 3, groups=2)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(6, 2, 1))
    x = torch.randn(4, 3, 6, 6)
    structure = icycle.trace(model, x[:1])
    before = layer.weight.detach().clone()
    icycle.compensate(model, structure, icycle.SubNetwork.random(structure, ratio=0.4), [x])
    assert torch.equal(layer.weight, before)
