"""Runs as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import icycle
from icycle.report._one import one_run
from icycle.report._parts import Content
from icycle.report._runs import read_run_record
from icycle.report._several import several_runs

__all__ = ["write_page"]


def write_page(folders: Sequence[Path], output: Path) -> Path:
    """Write a page that shows the run in the only folder, or compares the runs in several; returns `output`.

    A run that is given twice counts once. The page loads nothing: plotly's script is part of it.

    Raises:
        RecipeError: a folder holds no finished run.
    """
    runs = [read_run_record(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]
    content = one_run(runs[0]) if len(runs) == 1 else several_runs(runs)
    output.write_text(_rendered(content), encoding="utf-8")
    return output


def _rendered(content: Content) -> str:
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    loader = PackageLoader("icycle.report", ".")
    template = Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("page.html.j2")
    # within a script element only "</" and "<!--" would end it; JSON may write < in another way
    drawn = json.dumps({section.id: section.figure for section in content.sections}).replace("<", "\\u003c")
    return template.render(
        page=content, figure_json=Markup(drawn), plotly=Markup(_plotly_script()), version=icycle.__version__
    )


@cache
def _plotly_script() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
