"""What a consumer reads, as vectors that one matrix of weights is multiplied with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from icycle.probing import Reading

__all__ = ["taps_of", "vectors"]

_SAMPLES = 2048  # vectors per batch and weight: neighbouring positions tell nearly the same
_LARGEST = 1024  # elements that stay of a vector: so many equations are solved for each consumer and batch


def taps_of(reading: Reading, kept: int) -> int:
    """How many elements of the window a vector holds per channel, of which so many stay: all where that is not too
    much, else one."""
    if reading.window is None:
        return 1
    taps = math.prod(reading.window.kernel_size)
    return taps if taps * kept <= _LARGEST else 1


def vectors(reading: Reading, taps: int, elements: int) -> torch.Tensor:
    """(count, channels * taps): at positions with equal distances, what a convolution sees there, or the channels; so
    many neighbouring `elements` of a channel are as many positions."""
    x = reading.inputs.unflatten(1, (-1, elements)).flatten(2)
    every = -(-len(x) * x.shape[2] // _SAMPLES)
    if taps > 1:
        x, every = _unfolded(reading, every), 1
    # an odd step, since an even one would meet the same columns in every row of an image
    return x[:, :, :: every | 1].movedim(1, 2).flatten(0, 1)


def _unfolded(reading: Reading, every: int) -> torch.Tensor:
    """(samples, channels * taps, positions): of so many positions one, by a convolution of larger strides."""
    window = reading.window
    assert window is not None
    apart = math.ceil(math.sqrt(every)) | 1
    stride = (window.stride[0] * apart, window.stride[1] * apart)
    return F.unfold(reading.inputs, window.kernel_size, window.dilation, window.padding, stride)
