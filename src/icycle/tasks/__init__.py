"""Tasks: what a network can be trained for, by name."""

from icycle.tasks._labels import MultiLabel, TokenClassification
from icycle.tasks._language import LanguageModelling
from icycle.tasks._registry import TASK, register, tasks
from icycle.tasks._regression import Regression
from icycle.tasks._segmentation import Segmentation
from icycle.training import Classification, Supervised, Task

__all__ = [
    "TASK",
    "Classification",
    "LanguageModelling",
    "MultiLabel",
    "Regression",
    "Segmentation",
    "Supervised",
    "Task",
    "TokenClassification",
    "register",
    "tasks",
]
