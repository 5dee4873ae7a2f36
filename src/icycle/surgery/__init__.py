"""The only writer of models: a plan, its rehearsal on a shadow, and its application as one transaction."""

from icycle.surgery._apply import apply, exchange, rewrite, stand_in, undoing
from icycle.surgery._plan import Plan, make_plan
from icycle.surgery._prune import prune

__all__ = ["Plan", "apply", "exchange", "make_plan", "prune", "rewrite", "stand_in", "undoing"]
