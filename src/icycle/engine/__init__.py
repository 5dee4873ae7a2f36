"""From a model to its proven structure."""

from icycle.engine._trace import trace

__all__ = ["trace"]
