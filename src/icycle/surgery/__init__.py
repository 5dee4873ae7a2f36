"""The only writer of models: a plan, its proof on a shadow, and its application as one transaction."""

from icycle.surgery._plan import Plan, make_plan
from icycle.surgery._prune import prune
from icycle.surgery._verify import Fault, dry_run

__all__ = ["Fault", "Plan", "dry_run", "make_plan", "prune"]
