"""How the scores of a choice were spread: what is kept of them for a report."""

from __future__ import annotations

from typing import Any

import torch

from icycle.saliency._registry import Scores
from icycle.structure import SubNetwork

__all__ = ["spread"]

_MOST = 32  # scores of a group that are kept on either side of the cut


def spread(scores: Scores, subnet: SubNetwork) -> list[dict[str, Any]]:
    """For each group its `name`, `size`, how many channels are `left`, and the scores of those that are `kept` and of
    those that are `removed`, ascending; JSON values.

    Of more than 32 on one side, 32 at equal distances in their order, the lowest and the highest among them. Scores
    that are not finite (a channel that must stay) are left out.
    """
    return [
        {
            "name": name,
            "size": len(keep),
            "left": int(keep.sum()),
            "kept": _ordered(scores[name][keep]),
            "removed": _ordered(scores[name][~keep]),
        }
        for name, keep in subnet.keep.items()
    ]


def _ordered(values: torch.Tensor) -> list[float]:
    finite = values[torch.isfinite(values)].double().sort().values
    if len(finite) > _MOST:
        finite = finite[torch.linspace(0, len(finite) - 1, _MOST).round().long()]
    return [float(f"{value:.4g}") for value in finite.tolist()]
