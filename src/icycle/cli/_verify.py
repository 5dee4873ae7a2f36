"""`icycle verify`: the promises of a removal, checked on a model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from icycle.cli._model import InputShape, ModelName, load_model

if TYPE_CHECKING:
    from rich.table import Table

    from icycle.testing import Verification

__all__ = ["verify"]

_WORDS = {True: "yes", False: "no", None: "not tested"}


def verify(
    model: ModelName,
    shape: InputShape = None,
    ratio: Annotated[float, typer.Option(help="Of the channels of every group that are removed, 0..1.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Decides which channels.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Remove random channels from a copy of MODEL and print which promises held; exit code 1 if one did not."""
    # Imported here so that `icycle --help` need not wait for torch.
    from rich.console import Console

    from icycle import testing

    verification = testing.verify(*load_model(model, shape), ratio=ratio, seed=seed)
    if as_json:
        print(json.dumps(_record(verification), indent=2))
    else:
        console = Console()
        console.print(_table(verification))
        console.print(_summary(verification), soft_wrap=True, highlight=False)
    if not verification.held:
        raise typer.Exit(1)


def _table(verification: Verification) -> Table:
    from rich.table import Table

    table = Table("promise", "held", "found")
    for check in verification.checks:
        table.add_row(check.name, _WORDS[check.held], check.found, style="bold red" if check.held is False else None)
    return table


def _summary(verification: Verification) -> str:
    structure, subnet = verification.structure, verification.subnet
    gone = sum(int((~kept).sum()) for kept in subnet.keep.values())
    return (
        f"{gone:,} channels of {len(structure.prunable)} groups were removed from a copy: "
        f"{structure.macs():,} -> {structure.macs(subnet):,} MACs, "
        f"{structure.params():,} -> {structure.params(subnet):,} parameters"
    )


def _record(verification: Verification) -> dict[str, object]:
    return {
        "held": verification.held,
        "checks": [{"name": check.name, "held": check.held, "found": check.found} for check in verification.checks],
    }
