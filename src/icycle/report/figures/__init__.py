"""The figures of a page, from a run's records alone."""

from icycle.report.figures._channels import channels, saliency
from icycle.report.figures._course import course, time_spent
from icycle.report.figures._latency import latency, prediction
from icycle.report.figures._pareto import PRICES, front, pareto
from icycle.report.figures._steps import evidence, steps
from icycle.report.figures._style import Figure

__all__ = [
    "PRICES",
    "Figure",
    "channels",
    "course",
    "evidence",
    "front",
    "latency",
    "pareto",
    "prediction",
    "saliency",
    "steps",
    "time_spent",
]
