"""Methods: one file each, to be read top to bottom like its paper."""

from icycle.methods._dense import Dense
from icycle.methods._ice import FineTune, Ice, IceResult, IceStep, ice
from icycle.methods._ice_curve import Curve, pruning_aware_rate
from icycle.methods._ice_methods import (
    CurveSettings,
    IceMethod,
    IcePublished,
    Iterative,
    OneShot,
    Stepwise,
    TuneSettings,
)
from icycle.methods._ice_trigger import size_needed
from icycle.methods._one_cycle import OneCycle, OneCycleReport, Phases
from icycle.methods._one_cycle_run import OneCycleMethod
from icycle.methods._registry import Context, Method, MethodResult, Removal, get_method, methods, register

__all__ = [
    "Context",
    "Curve",
    "CurveSettings",
    "Dense",
    "FineTune",
    "Ice",
    "IceMethod",
    "IcePublished",
    "IceResult",
    "IceStep",
    "Iterative",
    "Method",
    "MethodResult",
    "OneCycle",
    "OneCycleMethod",
    "OneCycleReport",
    "OneShot",
    "Phases",
    "Removal",
    "Stepwise",
    "TuneSettings",
    "get_method",
    "ice",
    "methods",
    "pruning_aware_rate",
    "register",
    "size_needed",
]
