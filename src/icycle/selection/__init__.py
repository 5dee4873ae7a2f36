"""From scores to a sub-network: within a budget (`select`) or by a share of the channels (`select_ratio`)."""

from icycle.selection._budget import Budget
from icycle.selection._ranking import require_prunable
from icycle.selection._refine import CostFunction, SteppedCost
from icycle.selection._select import achieved, advice, select, select_ratio, smallest

__all__ = [
    "Budget",
    "CostFunction",
    "SteppedCost",
    "achieved",
    "advice",
    "require_prunable",
    "select",
    "select_ratio",
    "smallest",
]
