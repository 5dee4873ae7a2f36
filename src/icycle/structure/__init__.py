"""The frozen result of a trace that every later room reads."""

from icycle.structure._build import build, channel_axes
from icycle.structure._cost import Cost
from icycle.structure._describe import Explanation, explain
from icycle.structure._operations import Operation, TensorShape
from icycle.structure._shrunk import after_removal
from icycle.structure._structure import Attribute, Group, Slice, Structure
from icycle.structure._subnetwork import SubNetwork

__all__ = [
    "Attribute",
    "Cost",
    "Explanation",
    "Group",
    "Operation",
    "Slice",
    "Structure",
    "SubNetwork",
    "TensorShape",
    "after_removal",
    "build",
    "channel_axes",
    "explain",
]
