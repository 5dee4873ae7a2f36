"""The command, run in the process of the tests."""

from __future__ import annotations

import sys

import pytest

from icycle.cli import main

__all__ = ["command"]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `icycle` with `arguments` in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["icycle", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)
