"""Criteria: a model and its structure in, a score per channel out; higher is kept.

Every criterion is called as `criterion(model, structure, ...)` and returns `{group name: (size,) float tensor on the
CPU}` for the prunable groups. It sees uniform slices and never layer types. A group that a criterion cannot judge (no
batch norm for `bn_scale`, say) scores +inf, which selection reads as "leave it whole".
"""

from icycle.saliency._activations import activation_entropy, mean_activation
from icycle.saliency._gradients import taylor
from icycle.saliency._reconstruction import reconstruction
from icycle.saliency._registry import CRITERIA, Criterion, Scores, check, criterion, score
from icycle.saliency._spread import spread
from icycle.saliency._weights import bn_scale, geometric_median, group_norm, l1, l2, random

__all__ = [
    "CRITERIA",
    "Criterion",
    "Scores",
    "activation_entropy",
    "bn_scale",
    "check",
    "criterion",
    "geometric_median",
    "group_norm",
    "l1",
    "l2",
    "mean_activation",
    "random",
    "reconstruction",
    "score",
    "spread",
    "taylor",
]
