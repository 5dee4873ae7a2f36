"""The frozen result of a trace that every later room reads."""

from icycle.structure._build import build, channel_axes
from icycle.structure._cost import Cost
from icycle.structure._structure import Attribute, Group, Slice, Structure
from icycle.structure._subnetwork import SubNetwork

__all__ = ["Attribute", "Cost", "Group", "Slice", "Structure", "SubNetwork", "build", "channel_axes"]
