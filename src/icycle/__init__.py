"""icycle prunes PyTorch networks inside one training cycle."""

from __future__ import annotations

from icycle import saliency, testing
from icycle.artifacts import load, save
from icycle.engine import trace
from icycle.selection import Budget, select
from icycle.structure import Structure, SubNetwork
from icycle.surgery import prune

__version__ = "0.1.0"

__all__ = ["Budget", "Structure", "SubNetwork", "load", "prune", "saliency", "save", "select", "testing", "trace"]
