"""A structure in words: the table that it prints as, and what can be done about a group that is pinned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icycle.structure._structure import Group, Structure

__all__ = ["Explanation", "explain", "table"]


@dataclass(frozen=True)
class Explanation:
    """Why a group is pinned: `cause` in words, the ATen operation, module path and source line ("" where there is none)
    that pinned it, and in `advice` what the user could change ("" where nothing is known to help)."""

    cause: str
    operation: str
    module: str
    source: str
    advice: str


_WHERE = re.compile(r"(?P<operation>\w+::\w+) at (?P<module>the model itself|\S+)(?: \((?P<source>[^()]+:\d+)\))?")

_BY_DESIGN = "by design: what goes into the model and what comes out keeps its shape"
_NEEDS_ALL = "the operation needs every channel; a layer in front of it would free the channels before that layer"
_NUMBERED = "elements are taken by their numbers; only those of other dimensions can go"
_LAYOUT = "no smaller unit fits both sides; where a size is free to choose, choose one that divides the other"
_READ = "read the size from the tensor (x.shape), or keep it in an attribute of the module"

_ADVICE = (  # (what the reason says, what helps); the first that is found
    ("the dry run gave", "the prediction was wrong, so nothing is removed here; please report the model"),
    ("an input of the model", _BY_DESIGN),
    ("an output of the model", _BY_DESIGN),
    ("no rule for", "register a rule for {operation}: icycle.register_rule, docs/rules.md"),
    ("was not used", "trace with example inputs that use it, or remove it from the model"),
    ("the code says", f"write -1 for this size, {_READ}"),
    ("the code cuts at", _READ),
    ("a constant tensor", "make that tensor a buffer of its module (register_buffer), and it loses the same channels"),
    ("width inside an attention head", "icycle.trace(..., head_width=True) allows it"),
    ("computed from others", "read the size from the tensor that has it (x.shape)"),
    ("comes from a dimension of", "read the size from the tensor that has it (x.shape)"),
    ("is used for a dimension of", "read the size from the tensor that has it (x.shape)"),
    ("at an unknown constant", _READ),
    ("at unknown sizes", _READ),
    ("of a stated size", _READ),
    ("values are read", "the code turns the tensor into numbers, and what it does with them is not seen"),
    ("by index", _NUMBERED),
    ("an index", _NUMBERED),
    ("by its number", _NUMBERED),
    ("holds integers", _NUMBERED),
    ("element by element", "the code counts on the number of elements; take equal parts (chunk) if it need not"),
    ("every element takes part", _NEEDS_ALL),
    ("elements are compared", _NEEDS_ALL),
    ("ordered by value", _NEEDS_ALL),
    ("change places", _NEEDS_ALL),
    ("are mixed", _NEEDS_ALL),
    ("cannot be", _LAYOUT),
    ("differ", _LAYOUT),
    ("no common", _LAYOUT),
    ("no equal parts", _LAYOUT),
    ("inside a row", _LAYOUT),
    ("contain itself", _LAYOUT),
)


def explain(group: Group) -> Explanation:
    """What pinned a group that is not prunable, taken from its reason."""
    found = _WHERE.search(group.reason)
    place = found.groupdict(default="") if found else {"operation": "", "module": "", "source": ""}
    cause = group.reason.replace(found[0], "").strip(": ").removesuffix(" in") if found else group.reason
    advice = next((advice for sign, advice in _ADVICE if sign in group.reason), "")
    return Explanation(
        cause=cause or "its channels are tied to others that stay",
        operation=place["operation"],
        module=place["module"],
        source=place["source"],
        advice=advice.format(operation=place["operation"]),
    )


def table(structure: Structure) -> str:
    """A row per group, front to back, and a line of totals."""
    rows = [("group", "size", "removal", "parameters, or why it stays")]
    rows += [(group.name, str(group.size), _removal(group), _note(group)) for group in structure.groups]
    return "\n".join([*_aligned(rows), *_totals(structure)])


def _removal(group: Group) -> str:
    return "exact" if group.exact else "not exact" if group.prunable else "-"


def _note(group: Group, most: int = 3) -> str:
    if not group.prunable:
        return group.reason
    shown, rest = group.members[:most], len(group.members) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def _aligned(rows: Sequence[tuple[str, str, str, str]]) -> Iterator[str]:
    first, second, third = (max(len(row[column]) for row in rows) for column in range(3))
    for name, size, removal, note in rows:
        yield f"{name:<{first}}  {size:>{second}}  {removal:<{third}}  {note}".rstrip()


def _totals(structure: Structure) -> Iterator[str]:
    pinned = len(structure.groups) - len(structure.prunable)
    channels = sum(group.size for group in structure.prunable)
    yield f"{len(structure.prunable)} prunable groups of {channels:,} channels, {pinned} pinned"
    shares = {name: structure.prunable_share(name) for name in ("macs", "params")}
    yield (
        f"{structure.macs():,} MACs and {structure.params():,} parameters, of which {shares['macs']:.1%} and "
        f"{shares['params']:.1%} would go if one channel were left in every prunable group"
    )
    if structure.unknown_operations:
        counted = (f"{name} ({count})" for name, count in structure.unknown_operations.items())
        yield f"operations without a rule: {', '.join(counted)}"
    yield from structure.notes
