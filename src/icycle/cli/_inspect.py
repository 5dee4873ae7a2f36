"""`icycle inspect`: what can be pruned in a model, and why the rest cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icycle.cli._model import InputShape, ModelName, load_model

if TYPE_CHECKING:
    from rich.table import Table

    from icycle.structure import Group, Structure

__all__ = ["inspect"]

_COSTS = {"macs": "MACs of convolutions and matrix products", "params": "parameters"}


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
    for line in _summary(structure):
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

    from icycle.structure import explain

    columns = ("group", "size", "why it stays", "operation, module, source line", "what you could change")
    table = Table(*columns, title="pinned", title_justify="left")
    for group in structure.groups:
        if not group.prunable:
            found = explain(group)
            place = [part for part in (found.operation, found.module, found.source) if part]
            table.add_row(group.name, str(group.size), escape(found.cause), "\n".join(place), escape(found.advice))
    return table


def _summary(structure: Structure) -> Iterator[str]:
    prunable = sum(group.size for group in structure.prunable)
    yield (
        f"{len(structure.prunable)} prunable groups of {prunable:,} channels, "
        f"{len(structure.groups) - len(structure.prunable)} pinned"
    )
    for cost, words in _COSTS.items():
        share = structure.prunable_share(cost)
        yield f"{structure.cost(cost):,} {words}; {share:.1%} would go with all but one channel of every prunable group"
    for name, count in structure.unknown_operations.items():
        times = "once" if count == 1 else f"{count} times"
        yield f"no rule for {name}, met {times}: what it touches is pinned (docs/rules.md says how to register one)"
    yield from structure.notes


def _members(group: Group) -> list[str]:
    return [f"{piece.parameter}[dim {piece.dim}] {piece.role}" for piece in group.slices]


def _record(structure: Structure) -> dict[str, Any]:
    return {
        **{cost: structure.cost(cost) for cost in _COSTS},
        "prunable_share": {cost: structure.prunable_share(cost) for cost in _COSTS},
        "groups": [_group_record(group) for group in structure.groups],
        "unknown_operations": dict(structure.unknown_operations),
        "notes": list(structure.notes),
    }


def _group_record(group: Group) -> dict[str, Any]:
    import dataclasses

    from icycle.structure import explain

    return {
        "name": group.name,
        "size": group.size,
        "prunable": group.prunable,
        "exact": group.exact,
        "inexact_reason": group.inexact_reason,
        "reason": group.reason,
        "pinned_by": None if group.prunable else dataclasses.asdict(explain(group)),
        "members": _members(group),
    }
