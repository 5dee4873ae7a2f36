"""`icycle tune`: find settings for a recipe's method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["tune"]


def tune(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name (see `icycle recipes`), or a YAML file.")],
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
) -> None:
    """Find settings for the method of RECIPE, and write them as a recipe of their own."""
    # Imported here so that `icycle --help` need not wait for torch.
    from rich.console import Console

    from icycle.cli._progress import Progress
    from icycle.errors import TuningError
    from icycle.methods import TuneSettings
    from icycle.recipes import load_recipe, tune_recipe

    if share == 0 or drop == 0:
        raise TuningError(f"Expected --share and --drop above 0, but got {share} and {drop}")
    console = Console()
    loaded = load_recipe(recipe, overrides or (), imports=context.obj)
    settings = loaded.method.tuning or TuneSettings()
    given = {
        "trials": trials,
        "share": share,
        "drop": drop,
        "sampler": "grid" if grid else None,
        "storage": storage,
        "study": study,
    }
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    path = output or Path(f"{loaded.name}-tuned.yaml")
    with Progress(console) as progress:
        outcome = tune_recipe(loaded, settings, path, listeners=[progress.show])
    console.print(outcome.summary(), soft_wrap=True, highlight=False)
    console.print(f"To use them: icycle run {path}", soft_wrap=True)
