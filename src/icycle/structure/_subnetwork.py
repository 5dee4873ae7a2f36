"""Which channels of each group are kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icycle.errors import SubNetworkError

if TYPE_CHECKING:
    from icycle.structure._structure import Structure

__all__ = ["SubNetwork"]


class _Masks(Mapping[str, torch.Tensor]):
    """Masks by group name, each handed out as a copy: writing into one changes no sub-network."""

    def __init__(self, masks: Mapping[str, torch.Tensor]) -> None:
        self._masks = {name: kept.detach().cpu().clone() for name, kept in masks.items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._masks[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        return repr(self._masks)


@dataclass(frozen=True, eq=False)
class SubNetwork:
    """`keep[group name]` is a bool tensor of shape (size,), a copy, for every prunable group of a structure."""

    keep: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        for name, kept in self.keep.items():
            if not isinstance(kept, torch.Tensor) or kept.dtype != torch.bool or kept.dim() != 1:
                raise SubNetworkError(
                    f"Expected keep[{name!r}] to be a bool tensor of shape (size,), but got {kept!r}."
                )
        object.__setattr__(self, "keep", _Masks(self.keep))

    def __repr__(self) -> str:
        masks = list(self.keep.values())
        kept, channels = sum(int(mask.sum()) for mask in masks), sum(len(mask) for mask in masks)
        return f"SubNetwork({kept:,} of {channels:,} channels kept, in {len(masks)} groups)"

    def __reduce__(self) -> tuple[Any, ...]:
        """For copy and pickle."""
        return type(self), (dict(self.keep),)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SubNetwork) or self.keep.keys() != other.keep.keys():
            return False
        return all(torch.equal(kept, other.keep[name]) for name, kept in self.keep.items())

    __hash__ = None  # type: ignore[assignment]  # tensors inside: compare by value, never as a key

    @classmethod
    def full(cls, structure: Structure) -> SubNetwork:
        """The sub-network that keeps every channel."""
        return cls({group.name: torch.ones(group.size, dtype=torch.bool, device="cpu") for group in structure.prunable})

    @classmethod
    def first(cls, structure: Structure, counts: Mapping[str, int]) -> SubNetwork:
        """Keep the first `counts[name]` channels of every prunable group, all of one that is not in `counts`."""
        return cls(
            {
                group.name: torch.arange(group.size, device="cpu") < counts.get(group.name, group.size)
                for group in structure.prunable
            }
        )

    @classmethod
    def random(cls, structure: Structure, ratio: float, seed: int = 0) -> SubNetwork:
        """Remove int(ratio * size) random channels of every prunable group; 0 <= ratio < 1."""
        if not 0 <= ratio < 1:
            raise SubNetworkError(f"Expected a ratio in [0, 1), but got {ratio}.")
        generator = torch.Generator().manual_seed(seed)
        keep = {}
        for group in structure.prunable:
            kept = torch.ones(group.size, dtype=torch.bool, device="cpu")
            kept[torch.randperm(group.size, generator=generator, device="cpu")[: int(ratio * group.size)]] = False
            keep[group.name] = kept
        return cls(keep)

    def within(self, names: Collection[str]) -> SubNetwork:
        """This in the groups of these names; every other group is kept whole."""
        return SubNetwork({name: kept if name in names else torch.ones_like(kept) for name, kept in self.keep.items()})

    def masks(self, structure: Structure) -> list[np.ndarray]:
        """The bool masks in the order of `structure.prunable`; raises SubNetworkError where they do not fit."""
        sizes = {group.name: group.size for group in structure.prunable}
        if sizes.keys() != self.keep.keys():
            odd = sorted(sizes.keys() ^ self.keep.keys())
            raise SubNetworkError(
                f"Expected a sub-network of this structure's {len(sizes)} prunable groups, but {len(odd)} group names "
                f"differ (first: {odd[0]!r}). Was it made for another model, or before the model was pruned? "
                "Trace the model again and select anew."
            )
        for name, size in sizes.items():
            kept = self.keep[name]
            if len(kept) != size:
                raise SubNetworkError(
                    f"Expected {size} channels in group {name!r}, but the sub-network has {len(kept)}. Was it made for "
                    "another model, or before the model was pruned? Trace the model again and select anew."
                )
            if not kept.any():
                raise SubNetworkError(f"Expected at least one channel of group {name!r} to be kept, but none is.")
        return [self.keep[name].numpy() for name in sizes]

    def counts(self, structure: Structure) -> np.ndarray:
        """(groups,) int64: kept channels per prunable group of `structure`, in its order."""
        return np.array([int(mask.sum()) for mask in self.masks(structure)], dtype=np.int64)

    def similarity(self, other: SubNetwork) -> float:
        """Mean over groups of |A and B| / |A or B| of the kept sets (Jaccard), 0..1."""
        if self.keep.keys() != other.keep.keys():
            raise SubNetworkError("Expected two sub-networks of the same structure, but their group names differ.")
        if not self.keep:
            return 1.0
        ratios = []
        for name, kept in self.keep.items():
            union = int((kept | other.keep[name]).sum())
            ratios.append(int((kept & other.keep[name]).sum()) / union if union else 1.0)
        return sum(ratios) / len(ratios)
