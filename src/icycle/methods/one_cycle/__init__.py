"""One-cycle pruning: pre-training, pruning and fine-tuning inside one ordinary training run."""

from icycle.methods.one_cycle._method import OneCycleMethod
from icycle.methods.one_cycle._one_cycle import OneCycle, OneCycleReport
from icycle.methods.one_cycle._phases import Phases

__all__ = ["OneCycle", "OneCycleMethod", "OneCycleReport", "Phases"]
