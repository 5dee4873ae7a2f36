"""From a model to its proven structure, and what the proof compares runs with."""

from icycle.engine._calm import Calm, seeded
from icycle.engine._compare import relative_error
from icycle.engine._trace import trace

__all__ = ["Calm", "relative_error", "seeded", "trace"]
