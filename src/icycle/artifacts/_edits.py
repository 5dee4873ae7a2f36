"""Edits of code on their way to JSON and back, where they are held against the model's own source."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import reduce
from types import FunctionType
from typing import Any

from torch import nn

from icycle.artifacts._description import EditRecord
from icycle.errors import ArtifactError
from icycle.tracing import Edit, edits_of

__all__ = ["edit_records", "read_edits"]

_CALCULATED = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
_NUMERIC = ("float", "sqrt", "log", "exp")


def edit_records(model: nn.Module) -> dict[str, list[EditRecord]]:
    """The edits in the code of every module that has some."""
    return {
        path: [EditRecord(**_lists(dataclasses.asdict(edit))) for edit in edits]
        for path, module in model.named_modules()
        if (edits := edits_of(module))
    }


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (tuple, list)) else value


def read_edits(records: Mapping[str, Sequence[EditRecord]], model: nn.Module) -> dict[str, tuple[Edit, ...]]:
    """The edits of the modules at these paths.

    Raises ArtifactError for an edit of a module that is not there, or of a kind that a removal never makes.
    """
    modules = dict(model.named_modules())
    found: dict[str, tuple[Edit, ...]] = {}
    for path, own in records.items():
        if path not in modules:
            raise ArtifactError(f"Expected a module at {path!r}, whose code was edited, but there is none.")
        for record in own:
            _check_kind(path, type(modules[path]), record)
        found[path] = tuple(_edit(record) for record in own)
    return found


def _edit(record: EditRecord) -> Edit:
    fields = {field.name for field in dataclasses.fields(Edit)}
    values = record.model_dump(exclude_defaults=False)
    values["span"], values["functions"] = tuple(record.span), tuple(record.functions)
    values["calls"] = tuple(tuple(span) for span in record.calls)
    return Edit(**{name: value for name, value in values.items() if name in fields})


def _check_kind(path: str, owner: type[nn.Module], record: EditRecord) -> None:
    """A removal replaces a size in a reshape, or the whole of one that joins its last dimensions, or an operand of a
    calculation, or gives a fused attention its scale."""
    function = _function(owner, record.functions)
    node, parent = _at(function, tuple(record.span)) if function is not None else (None, None)
    if record.keyword == "flatten":
        fits = isinstance(node, ast.Call) and _name(node) in ("view", "reshape") and record.number == _sizes(node) - 1
    elif record.keyword:
        fits = isinstance(node, ast.Call) and _name(node) == "scaled_dot_product_attention" and record.number > 0
    elif isinstance(parent, ast.BinOp):
        fits = isinstance(parent.op, _CALCULATED) and math.isfinite(record.number)
    else:
        reshaped = isinstance(parent, ast.Call) and _name(parent) in ("view", "reshape") and node is not parent.func
        calculated = isinstance(parent, ast.Call) and _name(parent) in _NUMERIC and node in parent.args
        fits = calculated or (
            reshaped and isinstance(record.number, int) and (record.number == -1 or record.number > 0)
        )
    if not fits:
        raise ArtifactError(
            f"Expected an edit of the code of {path or 'the model'} to replace a size in a reshape, an operand of a "
            f"calculation or the scale of an attention, but at {record.span} of {record.functions[-1][:80]!r} it does "
            "not. The folder was changed, or the code is another: save the model again."
        )


def _function(owner: type[nn.Module], names: Sequence[str]) -> FunctionType | None:
    """The function that is reached from a class: its method, and from each on what it calls by name."""
    found: Any = inspect.getattr_static(owner, names[0], None)
    for name in names[1:]:
        if not isinstance(found, FunctionType):
            return None
        first, *rest = name.split(".")
        scope = found.__globals__
        called = reduce(lambda value, part: getattr(value, part, None), rest, scope.get(first))
        found = called if called is not None else inspect.getattr_static(owner, name.rpartition(".")[2], None)
    return found if isinstance(found, FunctionType) else None


def _at(function: FunctionType, span: tuple[int, ...]) -> tuple[ast.AST | None, ast.AST | None]:
    """The expression at a span, whose lines count from the function's first, and what it is an operand of."""
    try:
        source = inspect.getsource(function.__code__)
        tree = ast.parse(textwrap.dedent(source))
    except (OSError, TypeError, SyntaxError):
        return None, None
    indent = len(source) - len(source.lstrip())
    parents = {id(child): parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and node.end_lineno is not None and node.end_col_offset is not None:
            place = (node.lineno - 1, node.col_offset + indent, node.end_lineno - 1, node.end_col_offset + indent)
            if place == span:
                parent = parents[id(node)]
                inside = isinstance(parent, (ast.Tuple, ast.List))
                return node, parents[id(parent)] if inside else parent
    return None, None


def _sizes(call: ast.Call) -> int:
    """How many sizes a reshape says: one by one, or as one tuple or list."""
    first = call.args[0] if call.args else None
    return len(first.elts) if isinstance(first, (ast.Tuple, ast.List)) else len(call.args)


def _name(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))
