"""The only writer of models: a plan, its proof on a shadow, and its application as one transaction."""

from icycle.surgery._apply import exchange, rewrite, stand_in, undoing
from icycle.surgery._plan import Plan, make_plan
from icycle.surgery._prune import prune
from icycle.surgery._verify import Fault, dry_run

__all__ = ["Fault", "Plan", "dry_run", "exchange", "make_plan", "prune", "rewrite", "stand_in", "undoing"]
