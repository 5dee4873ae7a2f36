"""How far least squares on what was seen may be trusted."""

from __future__ import annotations

import torch

__all__ = ["damped"]

_LEAST = 1e-3
_FOR_EACH = 0.1  # times unknowns per vector is the least share, too; between 0.03 and 0.3 little changes


def damped(moments: torch.Tensor, count: int, share: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Second moments (k, k) of `count` vectors, plus lambda on the diagonal, in place; and lambda, which is positive.

    Lambda is `share` times the mean second moment; where that is not given, a thousandth of it, but no less than a
    tenth of k / `count`: a few vectors tell little of many unknowns, and least squares would take their chance for law.
    Nor is it ever less than what rounding makes of products in float32, or the result might not be positive.
    """
    size = len(moments)
    if share is None:
        share = max(_LEAST, _FOR_EACH * size / count)
    mean = moments.diagonal().mean()
    # where all is silent there is nothing to fit, whatever is added
    ridge = max(share, size * torch.finfo(torch.float32).eps) * mean if mean > 0 else torch.ones_like(mean)
    moments.diagonal().add_(ridge)
    return moments, ridge
