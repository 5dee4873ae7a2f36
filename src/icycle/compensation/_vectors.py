"""What a consumer reads, as vectors that one matrix of weights is multiplied with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from icycle.probing import Reading, Window

__all__ = ["reach", "taps_of", "vectors"]

_SAMPLES = 2048  # vectors per batch and weight: neighbouring positions tell nearly the same
_LARGEST = 1024  # elements that stay of a vector: so many equations are solved for each consumer and batch


def taps_of(reading: Reading, kept: int) -> int:
    """How many elements of the window a vector holds per channel, of which so many stay: all where that is not too
    much, else one."""
    if reading.window is None or reading.window.transposed:
        return 1
    taps = math.prod(reading.window.kernel_size)
    return taps if taps * kept <= _LARGEST else 1


def vectors(reading: Reading, taps: int, elements: int) -> torch.Tensor:
    """(count, channels * taps), in single precision at least: at positions with equal distances, what a convolution
    sees there, or the channels; so many neighbouring `elements` of a channel are as many positions."""
    x, window = reading.inputs, reading.window
    if window is not None and _is_seen_whole(window, taps):
        apart = 1 if taps == 1 else _apart(len(x) * math.prod(window.outputs), len(window.outputs))
        x = _windows(x, window, apart)
    if taps == 1:
        x = x.unflatten(1, (-1, elements)).flatten(2)
        # an odd step, since an even one would meet the same columns in every row of an image
        x = x[:, :, :: _every(len(x) * x.shape[2]) | 1]
    return x.movedim(1, 2).flatten(0, 1).to(torch.promote_types(x.dtype, torch.float32))


def reach(reading: Reading, taps: int) -> torch.Tensor:
    """(elements of the window that are refitted alike,) float64, 0..1: the share of the output's positions to which
    each of them brings what is read. Padding brings nothing, and a step of a transposed convolution has a position of
    its output be reached by some of them only. All of it where vectors hold what whole windows see."""
    window = reading.window
    shares = torch.ones(1, dtype=torch.float64, device=reading.inputs.device)
    if window is None or _is_seen_whole(window, taps):
        return shares
    sizes = reading.inputs.shape[2:]
    for dim, (inputs, outputs) in enumerate(zip(sizes, window.outputs, strict=True)):
        steps, limit = (inputs, outputs) if window.transposed else (outputs, inputs)
        tap = torch.arange(window.kernel_size[dim], device=shares.device) * window.dilation[dim] - window.padding[dim]
        place = tap[:, None] + torch.arange(steps, device=shares.device) * window.stride[dim]
        along = ((place >= 0) & (place < limit)).sum(dim=1, dtype=torch.float64) / outputs
        shares = torch.outer(shares, along).flatten()
    return shares


def _is_seen_whole(window: Window, taps: int) -> bool:
    return not window.transposed and taps == math.prod(window.kernel_size)


def _every(positions: int) -> int:
    """One of so many positions is enough."""
    return -(-positions // _SAMPLES)


def _apart(positions: int, dims: int) -> int:
    """The same for each dimension of the positions, and odd."""
    apart = 1
    while apart**dims < _every(positions):
        apart += 2
    return apart


def _windows(x: torch.Tensor, window: Window, apart: int) -> torch.Tensor:
    """(samples, channels * taps, positions): along each dimension one of `apart` positions of the output."""
    dims = len(window.kernel_size)
    if any(window.padding):
        x = F.pad(x, [padding for padding in reversed(window.padding) for _ in range(2)])
    for dim, size in enumerate(window.kernel_size):
        span = window.dilation[dim] * (size - 1) + 1
        x = x.unfold(2 + dim, span, window.stride[dim] * apart)[..., :: window.dilation[dim]]
    x = x.permute(0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))  # the window's elements to their channel
    return x.flatten(2 + dims).flatten(1, 1 + dims)
