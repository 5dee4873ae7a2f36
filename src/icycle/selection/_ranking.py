"""All channels of all groups in the order in which they would go."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch

from icycle.errors import CriterionError, StructureError
from icycle.reasons import Kind, Reason
from icycle.structure import Structure, SubNetwork

__all__ = ["Ranking", "require_prunable"]


class Ranking:
    """The scores of a structure's channels, flat, made smaller by `factor` (groups,), above 0 and at most 1.

    The order is by score; among equal scores by group, front to back, and then by channel. A score of +inf says that a
    channel must stay.
    """

    def __init__(
        self, structure: Structure, scores: Mapping[str, torch.Tensor], factor: np.ndarray | None = None
    ) -> None:
        require_prunable(structure)
        self._names = [group.name for group in structure.prunable]
        self.sizes = np.array([group.size for group in structure.prunable], dtype=np.int64)
        self._group = np.repeat(np.arange(len(self.sizes)), self.sizes)
        self._scores = _flat(structure, scores)
        if factor is not None:
            own = factor[self._group]
            self._scores = np.where(self._scores < 0, self._scores / own, self._scores * own)  # smaller, either way
        self._start = np.cumsum(self.sizes) - self.sizes

    @cached_property
    def _groups_in_order(self) -> np.ndarray:
        """(channels,): the group of the first channel to go, of the second, ..."""
        return self._group[np.argsort(self._scores, kind="stable")]

    @cached_property
    def _order_in_group(self) -> np.ndarray:
        """(channels,): flat channel numbers, group by group, within each group from the first to go to the last."""
        return np.lexsort((self._scores, self._group))

    @cached_property
    def removable(self) -> dict[str, int]:
        """How many channels of each group have a finite score."""
        finite = np.add.reduceat(np.isfinite(self._scores).astype(np.int64), self._start)
        return dict(zip(self._names, finite.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._scores)

    def kept_after(self, removed: int) -> np.ndarray:
        """(groups,): the kept counts once the first `removed` channels of the order are gone."""
        return self.sizes - np.bincount(self._groups_in_order[:removed], minlength=len(self.sizes))

    @cached_property
    def _losses(self) -> np.ndarray:
        """(channels + groups,): for each group 0, then the running sums of its scores from the first to go on."""
        ordered = np.where(np.isfinite(self._scores), self._scores, 0.0)[self._order_in_group]
        parts = [np.append(0.0, np.cumsum(part)) for part in np.split(ordered, self._start[1:])]
        return np.concatenate(parts)

    def lost(self, group: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """The sum of the scores that go when `kept` channels of `group` (a number) stay; shapes alike."""
        return self._losses[self._start[group] + group + self.sizes[group] - kept]

    def subnetwork(self, counts: np.ndarray) -> SubNetwork:
        """The sub-network that keeps the `counts` (groups,) best channels of each group."""
        rank = np.arange(len(self)) - self._start[self._group]
        keep = np.empty(len(self), dtype=bool)
        keep[self._order_in_group] = rank >= (self.sizes - counts)[self._group]
        parts = np.split(keep, self._start[1:])
        return SubNetwork({name: torch.from_numpy(part) for name, part in zip(self._names, parts, strict=True)})


def _urgency(reason: Reason) -> tuple[bool, bool, str]:
    """What went wrong comes first, what is so by design last."""
    return reason.kind not in (Kind.DRY_RUN, Kind.BREAKS), reason.by_design, str(reason)


def require_prunable(structure: Structure) -> None:
    """Raises StructureError where the structure has no group that channels may be removed from."""
    if not structure.prunable:
        first = sorted({group.pinned_by for group in structure.groups if group.pinned_by}, key=_urgency)[:3]
        raise StructureError(
            "Expected at least one prunable group, but the structure has none"
            + (f": {'; '.join(map(str, first))}. print(structure) says why, group by group." if first else ".")
        )


def _flat(structure: Structure, scores: Mapping[str, torch.Tensor]) -> np.ndarray:
    """(channels,) float64: the scores of all prunable groups, one after the other."""
    if not isinstance(scores, Mapping):
        raise CriterionError(f"Expected scores as a mapping, group name -> tensor, but got {scores!r}.")
    for group in structure.prunable:
        if group.name not in scores:
            raise StructureError(
                f"Expected scores for all {len(structure.prunable)} prunable groups, but {group.name!r} has none; "
                "score the structure that you select from."
            )
        own = scores[group.name]
        if not isinstance(own, torch.Tensor) or own.is_complex():
            raise CriterionError(
                f"Expected scores as tensors of real numbers, but group {group.name!r} has a "
                f"{own.dtype if isinstance(own, torch.Tensor) else type(own).__name__}; pass torch.as_tensor(scores)."
            )
        if tuple(own.shape) != (group.size,):
            raise CriterionError(
                f"Expected scores of shape ({group.size},) for group {group.name!r}, but got "
                f"{tuple(own.shape)}; one score per channel is needed."
            )
    flat = torch.cat([scores[group.name].detach().double() for group in structure.prunable]).cpu().numpy()
    if np.isnan(flat).any() or np.isneginf(flat).any():
        raise CriterionError("Expected scores that are numbers or +inf (must stay), but got NaN or -inf.")
    return flat
