"""`icycle inspect`: what can be pruned in a model, and why the rest cannot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icycle.cli._model import InputShape, ModelName, load_model

if TYPE_CHECKING:
    from rich.table import Table

    from icycle.reasons import Reason
    from icycle.structure import Group, Structure

__all__ = ["inspect"]

_COSTS = ("macs", "params")


def inspect(
    model: ModelName,
    shape: InputShape = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Print MODEL's groups of channels, their members, what is pinned, why, and what could be done about it."""
    # Imported here so that `icycle --help` need not wait for torch.
    from rich.console import Console

    from icycle.engine import trace

    structure = trace(*load_model(model, shape))
    if as_json:
        print(json.dumps(_record(structure), indent=2))
        return
    console = Console()
    for table in (_prunable(structure), _pinned(structure)):
        if table.row_count:
            console.print(table)
    for line in structure.totals():
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _prunable(structure: Structure) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("group", "size", "exact", "members", title="prunable", title_justify="left")
    for group in structure.prunable:
        exact = "yes" if group.exact else f"no: {group.inexact_reason}"
        table.add_row(group.name, str(group.size), escape(exact), escape("\n".join(_members(group))))
    return table


def _pinned(structure: Structure) -> Table:
    from rich.markup import escape
    from rich.table import Table

    columns = ("group", "size", "why it stays", "operation, module, source line", "what you could change")
    table = Table(*columns, title="pinned", title_justify="left")
    for group in structure.groups:
        if group.pinned_by is not None:
            why = group.pinned_by
            table.add_row(group.name, str(group.size), escape(why.cause), escape(str(why.place)), escape(why.advice))
    return table


def _members(group: Group) -> list[str]:
    return [f"{piece.parameter}[dim {piece.dim}] {piece.role}" for piece in group.slices]


def _record(structure: Structure) -> dict[str, Any]:
    return {
        **{cost: structure.cost(cost) for cost in _COSTS},
        "prunable_share": {cost: structure.prunable_share(cost) for cost in _COSTS},
        "groups": [_group_record(group) for group in structure.groups],
        "unknown_operations": dict(structure.unknown_operations),
        "proof": structure.proof,
        "notes": list(structure.notes),
    }


def _group_record(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "size": group.size,
        "prunable": group.prunable,
        "exact": group.exact,
        "inexact_reason": group.inexact_reason,
        "reason": group.reason,
        "pinned_by": None if group.pinned_by is None else _reason_record(group.pinned_by),
        "members": _members(group),
    }


def _reason_record(reason: Reason) -> dict[str, str]:
    return {name: getattr(reason, name) for name in ("cause", "operation", "module", "source", "advice")}
