"""Which channels a proof removes: counts that differ wherever they can, that agree wherever they can, small ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import median

import torch

from icycle.structure import Group, Structure, SubNetwork

__all__ = ["equal", "few", "unequal"]


def unequal(structure: Structure) -> SubNetwork:
    """Between a quarter and three quarters of every group, and another count in each of those of the same size, as far
    as there are so many, so that counts which must agree by chance do not."""
    met: Counter[int] = Counter()

    def count(group: Group) -> int:
        least, most = -(-group.size // 4), group.size * 3 // 4
        met[group.size] += 1
        return most - met[group.size] % max(most - least + 1, 1)

    return _choose(structure, 0, count)


def equal(structure: Structure) -> SubNetwork:
    """The same count in every group that is large enough, and half of the others: code that asks whether two sizes are
    equal gets another answer than before."""
    sizes = [group.size for group in structure.prunable]
    common = max(1, int(median(sizes)) // 2) if sizes else 1
    return _choose(structure, 1, lambda group: common if group.size > common else (group.size + 1) // 2)


def few(structure: Structure) -> SubNetwork:
    """An eighth of every group: code that looks at the size of a number sees one of another size."""
    return _choose(structure, 2, lambda group: group.size // 8)


def _choose(structure: Structure, seed: int, count: Callable[[Group], int]) -> SubNetwork:
    """Random channels, at least one and not all of every group."""
    dice = torch.Generator().manual_seed(seed)
    keep = {}
    for group in structure.prunable:
        kept = torch.zeros(group.size, dtype=torch.bool, device="cpu")
        order = torch.randperm(group.size, generator=dice, device="cpu")
        kept[order[: max(1, min(group.size - 1, count(group)))]] = True
        keep[group.name] = kept
    return SubNetwork(keep)
