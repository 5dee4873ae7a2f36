"""Groups as a table in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from icycle.structure._group import Group

__all__ = ["table"]

Row = tuple[str, str, str, str]


def table(groups: Sequence[Group]) -> Iterator[str]:
    """A heading and a line per group, in aligned columns."""
    rows: list[Row] = [("group", "size", "removal", "parameters, or why it stays")]
    rows += [(group.name, str(group.size), _removal(group), _note(group)) for group in groups]
    first, second, third = (max(len(row[column]) for row in rows) for column in range(3))
    for name, size, removal, note in rows:
        yield f"{name:<{first}}  {size:>{second}}  {removal:<{third}}  {note}".rstrip()


def _removal(group: Group) -> str:
    if not group.prunable:
        return "-"
    return "exact" if group.exact else "not exact"


def _note(group: Group, most: int = 3) -> str:
    if not group.prunable:
        return group.reason
    shown, rest = group.members[:most], len(group.members) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
