"""Methods: one file each, to be read top to bottom like its paper."""

from icycle.methods._dense import Dense
from icycle.methods._one_cycle import OneCycle, OneCycleReport, Phases
from icycle.methods._one_cycle_run import OneCycleMethod
from icycle.methods._registry import Context, Method, MethodResult, Removal, get_method, methods, register

__all__ = [
    "Context",
    "Dense",
    "Method",
    "MethodResult",
    "OneCycle",
    "OneCycleMethod",
    "OneCycleReport",
    "Phases",
    "Removal",
    "get_method",
    "methods",
    "register",
]
