"""Self-tuning: a study over a method's own settings, on a share of the training data."""

from icycle.tuning._study import open_study
from icycle.tuning._tune import Outcome, Trial, tune

__all__ = ["Outcome", "Trial", "open_study", "tune"]
