"""`icycle doctor`: what this machine and this installation have, and what to install for the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from rich.table import Table

__all__ = ["doctor"]

_OF_DEVELOPERS = ("dev", "docs")  # extras that no user misses


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False) -> None:
    """Show versions, devices and optional parts, and what to install for those that are missing."""
    from rich.console import Console

    from icycle.latency import targets

    facts = {"versions": _versions(), "devices": _devices(), "parts": _parts(), "targets": targets()}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    console = Console()
    for title, rows in facts.items():
        console.print(_table(title, rows))
    lacking = [part["install"] for part in facts["parts"].values() if part["install"]]
    for line in lacking or ["Every optional part is installed."]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _versions() -> dict[str, Any]:
    """Of icycle, Python, and the packages that icycle always needs."""
    import platform

    import icycle

    packages = {need.name: _installed(need.name) for need in _requirements("")}
    return {
        "icycle": icycle.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **packages,
    }


def _devices() -> dict[str, Any]:
    """What torch can run on here, each with its name."""
    import torch

    from icycle.latency import find_target

    found = {"cpu": f"{find_target('torch').device()}, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def _parts() -> dict[str, dict[str, Any]]:
    """The optional parts by name: the version of each package they need ("" where it is missing), and the command."""
    return {
        extra: _part(extra, _requirements(extra))
        for extra in _metadata("Provides-Extra")
        if extra not in _OF_DEVELOPERS
    }


def _part(extra: str, needs: list[Requirement]) -> dict[str, Any]:
    found = {need.name: _installed(need.name) for need in needs}
    fits = all(found[need.name] and need.specifier.contains(found[need.name], prereleases=True) for need in needs)
    return {"packages": found, "install": "" if fits else f"pip install 'icycle[{extra}]'"}


def _requirements(extra: str) -> list[Requirement]:
    """The packages of one extra, or those that are always needed, as icycle's own metadata tell them."""
    from packaging.requirements import Requirement

    needs = [Requirement(line) for line in _metadata("Requires-Dist")]
    if not extra:
        return [need for need in needs if need.marker is None]
    return [need for need in needs if need.marker is not None and need.marker.evaluate({"extra": extra})]


def _metadata(key: str) -> list[str]:
    from importlib.metadata import metadata

    return list(metadata("icycle").get_all(key) or [])


def _installed(package: str) -> str:
    """The version of a package; "" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _table(title: str, rows: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("", "", title=title, title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, _words(title, value))
    return table


def _words(title: str, value: Any) -> str:
    if title == "targets":
        return value or "available"
    if title == "parts":
        return ", ".join(f"{name} {version or 'is missing'}" for name, version in value["packages"].items())
    return str(value) or "is missing"
