"""From an instruction to the expression in the source that it stands for."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from types import CodeType, ModuleType
from typing import Any

from icycle.tracing._site import Running, Site
from icycle.tracing._source import Source, Span

__all__ = ["FLATTEN", "last_argument", "nodes_at", "part_at", "span_of"]

FLATTEN = "flatten"

_OPERATORS: dict[str, Any] = {
    "add": ast.Add,
    "sub": ast.Sub,
    "mul": ast.Mult,
    "div": ast.Div,
    "truediv": ast.Div,
    "pow": ast.Pow,
}


def nodes_at(source: Source, frame: Running) -> Sequence[ast.expr]:
    """The expression of a frame's instruction; before Python 3.11, which tells columns, all that are on its line."""
    code = frame.code
    position = list(code.co_positions())[frame.instruction // 2] if hasattr(code, "co_positions") else None
    found = _expressions(source.definition)
    if position is not None:
        return found.get(position, [])
    everywhere = dict.fromkeys(node for nodes in found.values() for node in nodes)
    return [node for node in everywhere if node.lineno <= frame.line <= (node.end_lineno or node.lineno)]


@functools.lru_cache(maxsize=256)
def _expressions(definition: ast.FunctionDef) -> dict[tuple[int | None, ...], list[ast.expr]]:
    """Position -> the expressions whose instruction may be said to stand there."""
    found: dict[tuple[int | None, ...], list[ast.expr]] = {}
    for node in ast.walk(definition):
        if isinstance(node, ast.expr) and node.end_lineno is not None:
            for position in dict.fromkeys(_positions(node)):
                found.setdefault(position, []).append(node)
    return found


def _positions(node: ast.expr) -> Iterator[tuple[int | None, ...]]:
    """Where an expression's instruction may be said to stand; a method on a line of its own is called at its name."""
    yield node.lineno, node.end_lineno, node.col_offset, node.end_col_offset
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        name: Any = node.func
        start = name.end_col_offset - len(name.attr.encode())
        yield name.end_lineno, node.end_lineno, start, node.end_col_offset
        yield name.end_lineno, name.end_lineno, start, name.end_col_offset


def part_at(node: ast.expr, site: Site) -> ast.expr | None:
    """The expression that a site means, of one that its instruction may stand for; None if it is of another kind."""
    if isinstance(node, ast.BinOp):
        return (node.left, node.right)[site.part] if isinstance(node.op, _OPERATORS.get(site.calculation, ())) else None
    if not isinstance(node, ast.Call):
        return None
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if site.keyword == FLATTEN:
        return node if name in ("view", "reshape") and _says_sizes(node, site) else None
    if site.keyword:  # of a fused attention, where neither it nor **others are given
        named = {keyword.arg for keyword in node.keywords}
        fitting = name == "scaled_dot_product_attention" and not named & {site.keyword, None}
        return node if fitting else None
    if node.keywords:
        return None
    if site.calculation == "float":
        return node.args[0] if len(node.args) == 1 and name in ("float", "sqrt", "log", "exp") else None
    if site.sizes is None or name not in ("view", "reshape"):
        return None
    last = node.args[-1] if node.args else None
    given = last.elts if isinstance(last, (ast.Tuple, ast.List)) else node.args
    return _element(given, site.part, site.sizes)


def _says_sizes(call: ast.Call, site: Site) -> bool:
    """Whether a reshape is a method of what it reshapes, and no function of a module, and says every size, one as -1:
    then what it does is the same whenever it runs."""
    value = call.func.value if isinstance(call.func, ast.Attribute) else None
    of_module = isinstance(value, ast.Name) and isinstance(site.frames[0].scope.get(value.id), ModuleType)
    sizes = [size for own in call.args for size in getattr(own, "elts", [own])]
    plain = len(sizes) == site.sizes and not any(isinstance(size, ast.Starred) for size in sizes)
    open_one = any(ast.unparse(size) == "-1" for size in sizes)
    return value is not None and not of_module and not call.keywords and plain and open_one


def _element(given: Sequence[ast.expr], place: int, of: int) -> ast.expr | None:
    """The expression that gives one of so many values; a starred one gives as many as it likes."""
    stars = [number for number, node in enumerate(given) if isinstance(node, ast.Starred)]
    if not stars:
        return given[place] if len(given) == of else None
    behind = len(given) - (of - place)
    if place < stars[0]:
        return given[place]
    return given[behind] if behind > stars[-1] else None


def last_argument(call: ast.Call) -> ast.expr | None:
    """What comes last between the brackets of a call."""
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    return max(arguments, key=lambda node: (node.end_lineno, node.end_col_offset), default=None)


def span_of(node: ast.AST, code: CodeType) -> Span:
    """From where to where a node stands, in lines from the first of `code` on."""
    first = code.co_firstlineno
    place: Any = node
    return place.lineno - first, place.col_offset, place.end_lineno - first, place.end_col_offset
