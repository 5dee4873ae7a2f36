"""`icycle run`: train and prune by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["run"]


def run(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name (see `icycle recipes`), or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value, e.g. train.epochs=3.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The run folder; runs/RECIPE-N when omitted.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished run in --output, or the last one.")
    ] = False,
) -> None:
    """Train and prune a network by RECIPE; leave model, metrics and report in a folder."""
    # Imported here so that `icycle --help` need not wait for torch.
    from rich.console import Console

    from icycle.cli._progress import Progress
    from icycle.recipes import RunFolder, latest_run, load_recipe, next_run, run_recipe
    from icycle.report import render

    console = Console()
    loaded = load_recipe(recipe, overrides or ())
    if output is not None:
        folder = RunFolder(output)
    else:
        folder = (latest_run if resume else next_run)(loaded.name, Path("runs"))
    try:
        with Progress(console) as progress:
            report = run_recipe(loaded, folder, listeners=[progress.show], resume=resume)
    except KeyboardInterrupt:
        console.print(f"Interrupted. To go on: the same command with --output {folder.path} --resume", soft_wrap=True)
        raise typer.Exit(130) from None
    console.print(render(report))
    console.print(f"Everything is in {folder.path}", soft_wrap=True)
