"""Methods: a room for each that has parts, a short file for each that has none, and what they share beside them."""

from icycle.methods._dense import Dense
from icycle.methods._fixed import AtInit, Fixed
from icycle.methods._gradual import Gradual
from icycle.methods._iterative import Iterative
from icycle.methods._one_shot import OneShot
from icycle.methods._registry import Context, Effort, Method, MethodResult, Removal, get_method, methods, register
from icycle.methods._scratch import Scratch
from icycle.methods._settings import BudgetSettings
from icycle.methods._training import FineTune, Training
from icycle.methods._tunable import SearchSpace, TuneSettings, Values
from icycle.methods._uniform import Uniform
from icycle.methods.abc import Abc
from icycle.methods.ice import (
    Curve,
    IceMethod,
    IcePublished,
    IceResult,
    IceRun,
    IceSettings,
    IceStep,
    Stepwise,
    pruning_aware_rate,
    size_needed,
)
from icycle.methods.one_cycle import OneCycle, OneCycleMethod, OneCycleReport, Phases

__all__ = [
    "Abc",
    "AtInit",
    "BudgetSettings",
    "Context",
    "Curve",
    "Dense",
    "Effort",
    "FineTune",
    "Fixed",
    "Gradual",
    "IceMethod",
    "IcePublished",
    "IceResult",
    "IceRun",
    "IceSettings",
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
    "Scratch",
    "SearchSpace",
    "Stepwise",
    "Training",
    "TuneSettings",
    "Uniform",
    "Values",
    "get_method",
    "methods",
    "pruning_aware_rate",
    "register",
    "size_needed",
]
