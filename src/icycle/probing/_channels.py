"""Which elements of what a weight reads belong to one channel, and can stand for as many positions of it."""

from __future__ import annotations

import math

import numpy as np

from icycle.structure import Structure

__all__ = ["channel_elements"]

_WIDE = 4096  # elements that a weight reads, up to which each is a channel of its own


def channel_elements(structure: Structure) -> dict[tuple[str, int], int]:
    """For each dimension along which a weight reads channels that can go, how many neighbouring elements of it are one
    channel's throughout, as behind a flattening; 1 where it is not so, or where all are few enough to count one by one.

    Products of what is read grow with the square of its elements, and few images tell little of many of them.
    """
    found: dict[tuple[str, int], int] = {}
    for group in structure.prunable:
        for piece in group.slices:
            if piece.role == "in":
                place = piece.parameter, piece.dim
                wide = structure.layouts[piece.parameter][piece.dim].size > _WIDE
                found[place] = math.gcd(found.get(place, 0), _neighbours(piece.index) if wide else 1)
    return found


def _neighbours(index: np.ndarray) -> int:
    """Of (channels, m) places m, where each channel's are neighbours that begin at a multiple of m, else 1."""
    first, m = index[:, :1], index.shape[1]
    return m if bool((index == first + np.arange(m)).all() and (first % m == 0).all()) else 1
