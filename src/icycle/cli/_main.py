"""The command itself: its verbs, and how an error is shown."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from icycle.cli._bench import bench
from icycle.cli._compare import compare
from icycle.cli._doctor import doctor
from icycle.cli._export import export
from icycle.cli._inspect import inspect
from icycle.cli._recipes import recipes
from icycle.cli._report import report
from icycle.cli._run import run
from icycle.cli._runs import runs
from icycle.cli._tune import tune
from icycle.cli._verify import verify
from icycle.cli._voice import has_the_word, is_alone
from icycle.errors import IcycleError

__all__ = ["app", "main"]

app = typer.Typer(
    name="icycle",
    help="Prunes PyTorch networks inside one training cycle.",
    epilog="Which method: from scratch one-cycle (icycle run digits), from trained weights one-shot (icycle run RECIPE"
    " --set method.name=one-shot). Whether it pays on yours: icycle compare RECIPE. More: docs/choosing.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


# what to do about a refusal of the operating system
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and try again, or choose another folder",
    errno.EDQUOT: "your share of the disk is used up; free some space and try again, or choose another folder",
    errno.EACCES: "choose another folder, or change its permissions",
    errno.EPERM: "choose another folder, or change its permissions",
    errno.EROFS: "the disk is read-only; choose another folder",
}


def _show_version(wanted: bool) -> None:
    if wanted:
        import icycle

        typer.echo(f"icycle {icycle.__version__}")
        raise typer.Exit()


@app.callback()
def _command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
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
app.command()(runs)
app.command()(compare)
app.command()(tune)
app.command()(inspect)
app.command()(verify)
app.command()(bench)
app.command()(export)
app.command()(report)
app.command()(recipes)
app.command()(doctor)


def main() -> None:
    """Run the command; an `IcycleError`, or a file that cannot be read or written, becomes one red message and exit
    code 2. Of several processes one tells."""
    if not is_alone():
        # torch's own warnings come from every process; a run searches for unused parameters on purpose
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        app()
    except IcycleError as error:
        _fail(str(error))
    except OSError as error:
        _fail(_refusal(error))
    except Exception:
        if not has_the_word():
            sys.exit(1)
        raise


def _refusal(error: OSError) -> str:
    """What the operating system refused, where, and what to do about it."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    where = f": {error.filename}" if error.filename else ""
    advice = _ADVICE.get(error.errno or 0)
    return f"{reason}{where}" + (f"; {advice}" if advice else "")


def _fail(message: str) -> NoReturn:
    if has_the_word():
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    sys.exit(2)
