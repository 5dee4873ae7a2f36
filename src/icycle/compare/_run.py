"""Runs what is not finished yet, in as many processes as wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from icycle.compare._plan import Run
from icycle.compare._results import Failure, Outcome, read_result
from icycle.compare._workers import Workers
from icycle.errors import IcycleError, RecipeError
from icycle.training import stoppable

__all__ = ["run_plan"]

Key = tuple[str, int]  # label and seed


def run_plan(
    plan: Sequence[Run],
    *,
    workers: int = 1,
    imports: Sequence[str] = (),
    on_outcome: Callable[[Outcome], object] = lambda outcome: None,
) -> list[Outcome]:
    """Run all of `plan`, and read what came of it, in its order.

    Finished runs are not repeated, interrupted ones go on from their checkpoints. One that fails is a `Failure`, and so
    is each that needs it; all others go on. Each worker is a process of its own, with its part of the threads;
    `imports` are modules that it imports first.

    Raises:
        RecipeError: a folder holds a run of other settings.
        RunInterruptedError: SIGTERM or SIGUSR1 came; what was running is saved, and the same call goes on.
    """
    for run in plan:
        _require_same(run)
    done: dict[Key, Outcome] = {}
    waiting = list(plan)

    def settle(run: Run, outcome: Outcome) -> None:
        done[run.label, run.seed] = outcome
        on_outcome(outcome)

    with stoppable(), Workers(workers, imports) as crew:
        while waiting or crew.busy:
            for run in [run for run in waiting if all((need, run.seed) in done for need in run.needs)]:
                outcome = _known(run, done)
                if outcome is None and not crew.free:
                    continue
                waiting.remove(run)
                if outcome is None:
                    crew.start(run)
                else:
                    settle(run, outcome)
            if crew.busy:
                for run, fault in crew.finished():
                    settle(run, _read(run, done) if fault is None else Failure(run.label, run.seed, fault))
    return [done[run.label, run.seed] for run in plan]


def _known(run: Run, done: dict[Key, Outcome]) -> Outcome | None:
    """What can be said without running it; None: nothing."""
    for need in run.needs:
        if isinstance(done[need, run.seed], Failure):
            return Failure(run.label, run.seed, f"it needs {need}, which failed")
    return _read(run, done) if run.folder.finished else None


def _read(run: Run, done: dict[Key, Outcome]) -> Outcome:
    try:
        return read_result(run, done)
    except IcycleError as error:
        return Failure(run.label, run.seed, str(error))


def _require_same(run: Run) -> None:
    folder = run.folder
    if folder.recipe.is_file() and _plain(folder.saved_recipe()) != _plain(run.recipe):
        raise RecipeError(
            f"Expected the run in {folder.path} to have the settings of this comparison, but it has others; choose "
            "another --output"
        )


def _plain(recipe: object) -> object:
    return recipe.model_dump(mode="json", warnings="none")  # type: ignore[attr-defined]
