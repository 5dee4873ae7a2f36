"""Runs what is not finished yet, in as many processes as wanted."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

import torch

from icycle.compare._plan import Run
from icycle.compare._results import Result, read_result
from icycle.errors import RecipeError
from icycle.recipes import run_recipe

__all__ = ["run_plan"]


def run_plan(
    plan: Sequence[Run],
    *,
    workers: int = 1,
    imports: Sequence[str] = (),
    on_result: Callable[[Result], object] = lambda result: None,
) -> list[Result]:
    """Run all of `plan`, and read their results in its order.

    Finished runs are not repeated, interrupted ones go on from their checkpoints. Each worker is a process of its own,
    with its part of the threads; `imports` are modules that it imports first.

    Raises:
        RecipeError: a folder holds a run of other settings.
        IcycleError: whatever a run raises; runs that others need come first, and what is finished stays.
    """
    for run in plan:
        _require_same(run)
    threads = max(1, torch.get_num_threads() // workers)
    done: dict[tuple[str, int], Result] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for together in _waves(plan):
            futures: dict[Future[None], Run] = {
                pool.submit(_execute, run, threads, tuple(imports)): run for run in together
            }
            for future in as_completed(futures):
                run = futures[future]
                future.result()
                result = read_result(run, done)
                done[run.label, run.seed] = result
                on_result(result)
    return [done[run.label, run.seed] for run in plan]


def _waves(plan: Sequence[Run]) -> list[list[Run]]:
    """The runs that may go on at the same time."""
    waves: list[list[Run]] = []
    level: dict[tuple[str, int], int] = {}
    for run in plan:
        level[run.label, run.seed] = max((level[need, run.seed] + 1 for need in run.needs), default=0)
        while len(waves) <= level[run.label, run.seed]:
            waves.append([])
        waves[level[run.label, run.seed]].append(run)
    return waves


def _require_same(run: Run) -> None:
    folder = run.folder
    if folder.recipe.is_file() and _plain(folder.saved_recipe()) != _plain(run.recipe):
        raise RecipeError(
            f"Expected the run in {folder.path} to have the settings of this comparison, but it has others; choose "
            "another --output"
        )


def _plain(recipe: object) -> object:
    return recipe.model_dump(mode="json", warnings="none")  # type: ignore[attr-defined]


def _execute(run: Run, threads: int, imports: Sequence[str]) -> None:
    """In a worker."""
    # The first optimizer of a process would import torch._dynamo, for seconds that only the first run would pay.
    for module in ("torch._dynamo", *imports):
        importlib.import_module(module)
    torch.set_num_threads(threads)
    if not run.folder.report.exists():
        run_recipe(run.recipe, run.folder, resume=run.folder.recipe.is_file())
