"""icycle prunes PyTorch networks inside one training cycle."""

from __future__ import annotations

from icycle.engine import trace
from icycle.structure import SubNetwork
from icycle.surgery import prune

__version__ = "0.1.0"

__all__ = ["SubNetwork", "prune", "trace"]
