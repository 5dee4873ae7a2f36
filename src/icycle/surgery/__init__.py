"""The only writer of models: a plan, its rehearsal on a shadow, and its application as one transaction."""

from icycle.surgery._apply import apply
from icycle.surgery._draft import Draft, Place, changed_attributes, commit
from icycle.surgery._inputs import inputs_from, remember_inputs, remembered_inputs
from icycle.surgery._plan import Plan, make_plan
from icycle.surgery._prune import prune, require_followers
from icycle.surgery._tensors import is_channels_last, successor
from icycle.surgery._undo import undoing
from icycle.surgery._zero import zero

__all__ = [
    "Draft",
    "Place",
    "Plan",
    "apply",
    "changed_attributes",
    "commit",
    "inputs_from",
    "is_channels_last",
    "make_plan",
    "prune",
    "remember_inputs",
    "remembered_inputs",
    "require_followers",
    "successor",
    "undoing",
    "zero",
]
