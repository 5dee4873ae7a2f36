"""`icycle report`: finished runs as a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="The folder of a finished run; several compare.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="The page; RUN/report.html, or comparison.html of several.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run, or about several side by side."""
    from icycle.report import write_page

    page = output or (runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html"))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    typer.echo(f"The page is {write_page(runs, page)}")
