"""Groups of channels, and where they lie in the parameters."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from icycle.reasons import Reason

__all__ = ["Group", "Slice"]


@dataclass(frozen=True, eq=False)
class Slice:
    """Where the channels of a group lie in one dimension of one parameter or buffer.

    `index` is int64 of shape (size, m): row c holds the m positions along `dim` that belong to channel c. `role` is
    "out" or "in" for a weight that produces or consumes the channels, "scale" and "shift" for what multiplies and is
    added, "state" and "variance" for running statistics, "other" for anything else.
    """

    parameter: str
    dim: int
    index: np.ndarray = field(repr=False)
    role: str


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that stand or fall together: removing channel c removes row c of every slice.

    `pinned_by` says why no channel may be removed, `inexact_by` why removing channels is not the same function as
    zeroing their parameters; each is None where it is so.
    """

    name: str
    size: int
    slices: tuple[Slice, ...]
    pinned_by: Reason | None = None
    inexact_by: Reason | None = None

    @property
    def prunable(self) -> bool:
        """Whether channels may be removed."""
        return self.pinned_by is None

    @property
    def exact(self) -> bool:
        """Whether removing channels gives the same function as zeroing their parameters."""
        return self.prunable and self.inexact_by is None

    @property
    def reason(self) -> str:
        """Why the group is not prunable, with operation, module path and source line; "" where it is."""
        return str(self.pinned_by or "")

    @property
    def inexact_reason(self) -> str:
        """Why removing is not zeroing, in the same form; "" where nothing says so."""
        return str(self.inexact_by or "")

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the parameters and buffers that hold the group's channels."""
        return tuple(dict.fromkeys(piece.parameter for piece in self.slices))
