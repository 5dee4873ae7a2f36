"""ICE: iterative pruning of a trained network that fine-tunes only when it must."""

from icycle.methods.ice._curve import Curve, pruning_aware_rate
from icycle.methods.ice._ice import IceRun
from icycle.methods.ice._methods import IceMethod, IcePublished, Stepwise
from icycle.methods.ice._own_code import ice
from icycle.methods.ice._result import IceResult, IceStep
from icycle.methods.ice._settings import IceSettings, StepwiseSettings
from icycle.methods.ice._trigger import size_needed

__all__ = [
    "Curve",
    "IceMethod",
    "IcePublished",
    "IceResult",
    "IceRun",
    "IceSettings",
    "IceStep",
    "Stepwise",
    "StepwiseSettings",
    "ice",
    "pruning_aware_rate",
    "size_needed",
]
