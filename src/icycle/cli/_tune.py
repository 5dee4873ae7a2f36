"""`icycle tune`: find settings for a recipe's method."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from icycle.cli._stop import resumable

__all__ = ["tune"]


def tune(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Argument(help="A bundled recipe's name (see `icycle recipes`), or a YAML file; not needed to resume."),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="How many; the recipe's method.tune, or 12.")] = None,
    share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Of the training data that a trial uses; 0.1 when omitted.")
    ] = None,
    drop: Annotated[
        float | None, typer.Option(min=0.0, help="The points of validation accuracy that may be lost; 2 when omitted.")
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="The paper's grid instead of a search.")] = False,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="An Optuna storage that several workers share; memory if omitted.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="The study's name in the storage.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value, e.g. train.epochs=3.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The tuned recipe; RECIPE-tuned.yaml when omitted.")] = None,
    folder: Annotated[Path | None, typer.Option(help="The study's folder; runs/RECIPE-tune-N when omitted.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Go on with the unfinished study in FOLDER, by the settings that it keeps."
        ),
    ] = None,
) -> None:
    """Find settings for the method of RECIPE, and write them as a recipe of their own.

    SIGTERM and SIGUSR1 end the study with exit code 75; then, as after any other end, `icycle tune --resume FOLDER`
    goes on after the last finished trial.
    """
    # Imported here so that `icycle --help` need not wait for torch.
    from rich.console import Console

    from icycle.cli._progress import Progress
    from icycle.errors import RecipeError, TuningError
    from icycle.methods import TuneSettings
    from icycle.recipes import RunFolder, load_recipe, next_run, saved_study, tune_recipe

    if share == 0 or drop == 0:
        raise TuningError(f"Expected --share and --drop above 0, but got {share} and {drop}")
    given = {
        "trials": trials,
        "share": share,
        "drop": drop,
        "sampler": "grid" if grid else None,
        "storage": storage,
        "study": study,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if resume is not None:
        if changes or any(value is not None for value in (recipe, overrides, output, folder)):
            raise RecipeError("Expected nothing but --resume FOLDER, as the study keeps its settings, but got more")
        place = RunFolder(resume)
        loaded, (settings, path) = place.saved_recipe(), saved_study(place)
    elif recipe is None:
        raise RecipeError("Expected a RECIPE (see `icycle recipes`), or --resume FOLDER, but got neither")
    else:
        loaded = load_recipe(recipe, overrides or (), imports=context.obj)
        settings = (loaded.method.tuning or TuneSettings()).model_copy(update=changes)
        path = output or Path(f"{loaded.name}-tuned.yaml")
        place = next_run(f"{loaded.name}-tune", Path("runs")) if folder is None else RunFolder(folder)
    console = Console()
    with resumable(console, place), Progress(console) as progress:
        outcome = tune_recipe(loaded, settings, place, path, listeners=[progress.show], resume=resume is not None)
    console.print(outcome.summary(), soft_wrap=True, highlight=False, markup=False)
    console.print(f"To use them: {shlex.join(['icycle', 'run', str(path)])}", soft_wrap=True, markup=False)
