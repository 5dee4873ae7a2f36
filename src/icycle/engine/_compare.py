"""How far the outputs of two runs are apart."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch

__all__ = ["ROUNDINGS", "relative_error", "said"]

ROUNDINGS = 50  # of a floating-point type: a relative error beyond so many is a difference


def said(error: Exception) -> str:
    """The first line of what an error says, its kind first; without the addresses of objects, which a second run would
    not find."""
    return re.sub(r" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}").splitlines()[0]


def relative_error(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """The largest ||actual - expected|| / ||expected|| over floating-point and complex outputs; `inf` where another
    output differs, a shape, the place of an infinite element, or where anything is not a number."""
    if len(actual) != len(expected):
        return math.inf
    return max((_relative_error(a, b) for a, b in zip(actual, expected, strict=True)), default=0.0)


def _relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return math.inf
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(actual, expected) else math.inf
    wide = torch.complex128 if expected.is_complex() else torch.float64
    actual, expected = actual.to(wide), expected.to(wide)
    finite = expected.isfinite()
    if not bool(finite.all()):
        if bool(expected.isnan().any()) or not torch.equal(actual[~finite], expected[~finite]):
            return math.inf
        actual, expected = actual[finite], expected[finite]
    size, difference = float(expected.norm()), float((actual - expected).norm())
    if not math.isfinite(difference):
        return math.inf
    return difference / size if size > 0 else difference
