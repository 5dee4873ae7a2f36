"""The command itself: its verbs, and how an error is shown."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from icycle.cli._bench import bench
from icycle.cli._compare import compare
from icycle.cli._export import export
from icycle.cli._inspect import inspect
from icycle.cli._recipes import recipes
from icycle.cli._report import report
from icycle.cli._run import run
from icycle.cli._tune import tune
from icycle.cli._verify import verify
from icycle.errors import IcycleError

__all__ = ["app", "main"]

app = typer.Typer(
    name="icycle",
    help="Prunes PyTorch networks inside one training cycle.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _command(
    context: typer.Context,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Import package.module first: what it registers can be named. A recipe's imports: does the same.",
        ),
    ] = None,
) -> None:
    context.obj = tuple(imports or ())
    if context.obj:
        from icycle.registry import import_module

        for name in context.obj:
            import_module(name)


app.command()(run)
app.command()(compare)
app.command()(tune)
app.command()(inspect)
app.command()(verify)
app.command()(bench)
app.command()(export)
app.command()(report)
app.command()(recipes)


def main() -> None:
    """Run the command; an `IcycleError` becomes one red message and exit code 2."""
    try:
        app()
    except IcycleError as error:
        message = Text.assemble(("error: ", "bold red"), str(error))
        Console(stderr=True).print(message, soft_wrap=True)
        sys.exit(2)
