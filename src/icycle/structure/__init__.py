"""The frozen result of a trace that every later room reads."""

from icycle.structure._after_removal import after_removal
from icycle.structure._build import build
from icycle.structure._cost import Cost
from icycle.structure._group import Group, Slice
from icycle.structure._layout import count_of, freeze
from icycle.structure._memory import Peak
from icycle.structure._operations import Operation, Piece, TensorShape
from icycle.structure._structure import Attribute, Example, Structure
from icycle.structure._subnetwork import SubNetwork

__all__ = [
    "Attribute",
    "Cost",
    "Example",
    "Group",
    "Operation",
    "Peak",
    "Piece",
    "Slice",
    "Structure",
    "SubNetwork",
    "TensorShape",
    "after_removal",
    "build",
    "count_of",
    "freeze",
]
