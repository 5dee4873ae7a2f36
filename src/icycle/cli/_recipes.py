"""`icycle recipes`: what can be run by name."""

from __future__ import annotations

__all__ = ["recipes"]


def recipes() -> None:
    """List the bundled recipes."""
    from rich.console import Console
    from rich.table import Table

    from icycle.recipes import bundled_recipes

    table = Table("recipe", "what it does")
    for name, summary in bundled_recipes().items():
        table.add_row(name, summary)
    Console().print(table)
