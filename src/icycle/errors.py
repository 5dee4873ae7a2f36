"""Every error that icycle raises on purpose descends from `IcycleError`.

A message says what was expected, what came, where (module path and operation, or file) and what to do next.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "BudgetError",
    "CriterionError",
    "DataError",
    "ExportError",
    "IcycleError",
    "LatencyError",
    "RecipeError",
    "RunInterruptedError",
    "StructureError",
    "SubNetworkError",
    "SurgeryError",
    "TraceError",
    "TrainingError",
    "TuningError",
]


class IcycleError(Exception):
    """The root of all errors that icycle raises on purpose."""


class TraceError(IcycleError):
    """The model could not be run on the example inputs, or its run could not be followed."""


class StructureError(IcycleError):
    """A structure cannot serve the request: no prunable group, an unknown group name, another model's structure."""


class BudgetError(IcycleError):
    """A budget is malformed or out of reach."""


class SubNetworkError(IcycleError):
    """A sub-network does not fit the structure it is used with."""


class SurgeryError(IcycleError):
    """Channels could not be removed; the model is as it was."""


class ArtifactError(IcycleError):
    """A saved model is missing, damaged, of another version or of another architecture."""


class ExportError(IcycleError):
    """A model cannot be written in a format, or the package for it is missing."""


class LatencyError(IcycleError):
    """A latency cannot be measured: an unknown target, or one that this machine does not have."""


class RecipeError(IcycleError):
    """A recipe has unknown keys, wrong values, or names something that does not exist."""


class DataError(IcycleError):
    """A data set is missing or damaged."""


class TrainingError(IcycleError):
    """Training cannot go on: a non-finite loss, or settings that contradict each other."""


class RunInterruptedError(IcycleError):
    """The process was asked to stop; what the run had reached is saved."""


class CriterionError(IcycleError):
    """A saliency criterion lacks what it needs (data, gradients) or gave no usable scores."""


class TuningError(IcycleError):
    """A tuning study cannot start or go on."""
