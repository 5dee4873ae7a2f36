"""The `icycle` command, one file per verb."""

from icycle.cli._main import app, main

__all__ = ["app", "main"]
