"""The study that trials belong to: in memory, or in any storage that Optuna knows, shared by many workers."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from icycle.errors import TuningError
from icycle.methods import Context, Method, SearchSpace, TuneSettings
from icycle.zoo import Data

if TYPE_CHECKING:
    import optuna

__all__ = ["OVER_THE_LIMIT", "WORKER", "forget_unfinished", "open_study", "require_space", "tuning_share"]

_TRIES = 4  # to open a storage

# Attributes of a trial:
OVER_THE_LIMIT = "over the limit"  # points of accuracy lost beyond what is allowed
WORKER = "worker"  # who runs it: the file where its worker keeps finished ones


def require_space(method: Method, context: Context) -> SearchSpace:
    """What can be tuned in `method`; TuningError where that is nothing."""
    space = method.space(context)
    if space is None:
        raise TuningError(f"Expected a method that can be tuned, as 'ice' can, but got '{method.name}'")
    return space


def tuning_share(data: Data, share: float, seed: int) -> Data:
    """The same data with a share of the training examples, every class in its proportion.

    Raises:
        TuningError: that is less than a batch.
    """
    if share == 1:
        return data
    train = data.train.share(share, seed)
    if train.examples < train.batch_size:
        raise TuningError(
            f"Expected at least one batch of {train.batch_size} examples to tune on, but a share of {share} of "
            f"{data.train.examples} is {train.examples}; raise method.tune.share"
        )
    return replace(data, train=train)


def open_study(method: Method, context: Context, settings: TuneSettings) -> optuna.Study:
    """A new study of `method`, or the one of this name that the storage has already.

    Without a storage, trials depend on the seed alone. With one, several workers may share them, and then it also
    matters who comes first; so each draws for itself.

    Raises:
        TuningError: the method has nothing to tune, the share leaves no batch, Optuna is missing, or the storage cannot
            be reached.
    """
    grid = require_space(method, context).grid
    tuning_share(context.data, settings.share, context.seed)
    try:
        import optuna
    except ImportError as error:
        raise TuningError("Expected Optuna to be installed, which tuning needs; pip install 'icycle[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # else it tells the way to each trial that was cut off
    own_seed = context.seed if settings.storage is None else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that parts of Optuna are called experimental
        sampler = _sampler(settings, grid, own_seed)
        return _created(settings, sampler, _TRIES)


def _created(settings: TuneSettings, sampler: Any, tries: int) -> optuna.Study:
    import optuna

    try:
        return optuna.create_study(
            study_name=settings.study, storage=settings.storage, sampler=sampler, load_if_exists=True
        )
    except Exception as error:  # whatever a database's driver raises
        if tries > 1:
            time.sleep(random.uniform(0.1, 0.5))  # another worker may be making the tables
            return _created(settings, sampler, tries - 1)
        raise TuningError(
            f"Expected a study storage at {_without_password(settings.storage)}, but it cannot be used: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; check the URL (such as "
            "sqlite:///tune.db) and that its driver is installed, or leave method.tune.storage out"
        ) from error


def forget_unfinished(study: optuna.Study, worker: str | None) -> None:
    """Mark what `worker` was at when it was cut off as failed, so that no other worker waits for it, and put its values
    back in line."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if worker is not None and trial.user_attrs.get(WORKER) == worker:
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params)


def _sampler(settings: TuneSettings, grid: Mapping[str, Sequence[float]], seed: int | None) -> Any:
    import optuna

    if settings.sampler == "grid":
        return optuna.samplers.GridSampler(grid, seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=min(5, max(1, settings.trials // 2)),
        multivariate=False,
        constant_liar=settings.storage is not None,
        constraints_func=_constraints,
    )


def _constraints(trial: Any) -> tuple[float]:
    """At most 0 where the limit is kept; a trial that was stopped early has not been seen to break it."""
    return (float(trial.user_attrs.get(OVER_THE_LIMIT, 0.0)),)


def _without_password(url: str | None) -> str:
    head, at, tail = str(url).rpartition("@")
    return f"{head.split('://')[0]}://...@{tail}" if at else str(url)
