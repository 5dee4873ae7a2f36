"""From a module's `forward` to an expression: the functions on the way, each sure to be reached again."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from icycle.tracing._expressions import nodes_at, span_of
from icycle.tracing._site import Running, Site
from icycle.tracing._source import Source, Span, nested_codes, source_of

__all__ = ["Step", "class_as_written", "digest_of", "global_function", "method_of", "route_to"]


def class_as_written(owner: type[nn.Module]) -> type[nn.Module]:
    """`owner` itself, or the class for which it stands in, with edits."""
    return getattr(owner, "_icycle_owner", owner)


@dataclass(frozen=True)
class Step:
    """A function on the way to an expression, the name by which it is called, and where the one before says it."""

    name: str
    function: FunctionType
    call: Span | None = None


def route_to(site: Site, module: nn.Module) -> list[Step]:
    """The functions from a method to the site, outermost first; [] where one is not sure to be reached again."""
    levels = _levels(site.frames)
    owner = class_as_written(type(module))
    first = method_of(owner, "forward")
    if first is None or first.__code__ is not levels[-1][-1].code or "forward" in vars(module):
        return []
    route = [Step("forward", first)]
    for caller, callee in zip(reversed(levels[1:]), reversed(levels[:-1]), strict=True):
        steps = [step for step in _callees(route, caller, owner, module) if step.function.__code__ is callee[-1].code]
        if len(steps) != 1:
            return []
        route = steps if steps[0].call is None else [*route, steps[0]]
    return route


def _levels(frames: Sequence[Running]) -> list[list[Running]]:
    """The frames by function: a comprehension, or a function within a function, belongs to the one around it."""
    levels: list[list[Running]] = []
    for frame in frames:
        if levels and any(code is levels[-1][-1].code for code in nested_codes(frame.code)):
            levels[-1].append(frame)
        else:
            levels.append([frame])
    return levels


def _callees(
    route: Sequence[Step], caller: Sequence[Running], owner: type[nn.Module], module: nn.Module
) -> Iterator[Step]:
    """What a call in the last function of `route`, at the frames' instruction, is sure to call."""
    code = route[-1].function.__code__
    source = source_of(code)
    local = {name for frame in caller for name in (*frame.code.co_varnames, *frame.code.co_cellvars)}
    for node in nodes_at(source, caller[0]) if source is not None else ():
        names = _dotted(node.func) if isinstance(node, ast.Call) else []
        if not isinstance(node, ast.Call) or not names:
            continue
        if len(route) == 1 and len(names) == 2 and source is not None and _is_self(names[0], code, caller, source):
            method = method_of(owner, names[1])
            if method is not None and names[1] not in vars(module):
                yield Step(names[1], method)
        elif names[0] not in local | set(code.co_freevars):
            function = global_function(caller[0].scope, names)
            if function is not None:
                yield Step(".".join(names), function, span_of(node.func, code))


def _dotted(node: ast.expr) -> list[str]:
    """["a", "b"] of the expression a.b; [] of what is no such name."""
    if isinstance(node, ast.Name):
        return [node.id]
    before = _dotted(node.value) if isinstance(node, ast.Attribute) else []
    return [*before, node.attr] if isinstance(node, ast.Attribute) and before else []


def _is_self(name: str, code: CodeType, caller: Sequence[Running], source: Source) -> bool:
    """Whether a name is a method's first argument, which nothing in the method gives another value."""
    within = any(name in frame.code.co_varnames for frame in caller[:-1])
    stored = any(
        isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load)
        for node in ast.walk(source.definition)
    )
    return code.co_argcount > 0 and name == code.co_varnames[0] and not within and not stored


def method_of(owner: type[nn.Module], name: str) -> FunctionType | None:
    """The function of that name in a class, where it is a plain one."""
    method = inspect.getattr_static(owner, name, None)
    return method if isinstance(method, FunctionType) else None


def global_function(scope: dict[str, Any], names: Sequence[str]) -> FunctionType | None:
    """The function that a name stands for: a global, or one of a module that is a global."""
    value: Any = scope.get(names[0])
    for name in names[1:]:
        value = vars(value).get(name) if isinstance(value, ModuleType) else None
    return value if isinstance(value, FunctionType) else None


def digest_of(route: Iterable[Step]) -> str:
    """Tells the sources of all functions on the way."""
    sources = (source_of(step.function.__code__) for step in route)
    return hashlib.sha256(" ".join(source.digest if source else "" for source in sources).encode()).hexdigest()
