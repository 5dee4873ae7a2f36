"""What a method has to offer so that `icycle.tuning` can find settings for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from icycle.methods._settings import Count, Positive
from icycle.training import Settings

if TYPE_CHECKING:
    import optuna

    from icycle.methods._registry import Effort, Method

__all__ = ["SearchSpace", "TuneSettings", "Values"]

Values = Mapping[str, float]  # of the settings that are tuned, by name


class TuneSettings(Settings):
    """How a method finds its own settings; see `icycle.tuning.tune`."""

    trials: Count = 12
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    drop: Positive = 2.0
    sampler: Literal["tpe", "grid"] = "tpe"
    storage: str | None = None
    study: Annotated[str, Field(min_length=1)] = "icycle"


class SearchSpace(Protocol):
    """The settings of one method that can be tuned on one network and its data, and what a trial of them costs."""

    @property
    def grid(self) -> Mapping[str, Sequence[float]]:
        """Values to try where the sampler is a grid."""

    @property
    def first(self) -> Sequence[Values]:
        """What is tried before anything is sampled."""

    def suggest(self, trial: optuna.Trial) -> Values:
        """A sample out of the ranges."""

    def method(self, values: Values) -> Method:
        """The method with these values, and nothing left to tune."""

    def trial(self, values: Values) -> Method:
        """The same, made cheaper for a trial on a share of the data where that does not count as `cost`."""

    def cost(self, effort: Effort) -> float:
        """What a whole run of such an effort costs; 1 is an epoch of training."""

    def least_cost(self, values: Values, record: Mapping[str, Any]) -> float | None:
        """What the run with these values that wrote `record` must cost at the least; None where nobody can tell yet."""
