"""`icycle run`: train and prune by a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icycle.cli._stop import resumable
from icycle.errors import RecipeError

if TYPE_CHECKING:
    from icycle.recipes import Recipe, RunFolder

__all__ = ["run"]


def run(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Argument(help="A bundled recipe's name (see `icycle recipes`), or a YAML file; not needed to resume."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value, e.g. train.epochs=3.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights and data; the same as --set seed=N.")] = None,
    output: Annotated[Path | None, typer.Option(help="The run folder; runs/RECIPE-N when omitted.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Go on with the unfinished run in FOLDER, by the recipe that it keeps."),
    ] = None,
) -> None:
    """Train and prune a network by RECIPE; leave model, metrics and report in a folder.

    Several processes train together: torchrun --nproc-per-node 2 -m icycle run RECIPE.

    SIGTERM and SIGUSR1 save the run after the step that it is at, and end it with exit code 75; then, as after any
    other end, `icycle run --resume FOLDER` goes on.
    """
    # Imported here so that `icycle --help` need not wait for torch.
    from rich.console import Console

    from icycle.cli._progress import Progress
    from icycle.recipes import RunFolder, load_recipe, next_run, run_recipe
    from icycle.report import render, summary
    from icycle.training import is_first, join_processes, on_first

    join_processes()
    console = Console(quiet=not is_first())
    changes = [*(overrides or ()), *([] if seed is None else [f"seed={seed}"])]
    if resume is not None:
        folder = RunFolder(resume)
        loaded = _resumed(folder, recipe, changes, output, context.obj)
    else:
        if recipe is None:
            raise RecipeError("Expected a RECIPE (see `icycle recipes`), or --resume FOLDER, but got neither")
        loaded = load_recipe(recipe, changes, imports=context.obj)
        folder = on_first(lambda: next_run(loaded.name, Path("runs"))) if output is None else RunFolder(output)
    with resumable(console, folder), Progress(console) as progress:
        report = run_recipe(loaded, folder, listeners=[progress.show], resume=resume is not None)
    console.print(render(report))
    console.print(summary(report), soft_wrap=True, highlight=False, markup=False)
    console.print(f"Everything is in {folder.path}", soft_wrap=True, markup=False)


def _resumed(
    folder: RunFolder, recipe: str | None, overrides: Sequence[str], output: Path | None, imports: Sequence[str]
) -> Recipe:
    """The recipe of the run in a folder; settings that are given again are compared with it when it is reopened."""
    from icycle.recipes import load_recipe

    if output is not None:
        raise RecipeError(f"Expected --output or --resume, but got both: the run goes on in {folder.path}")
    kept = folder.saved_recipe()
    if recipe is None and not overrides:
        return kept
    return load_recipe(recipe or str(folder.recipe), overrides, imports=imports or kept.imports)
