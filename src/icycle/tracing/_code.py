"""A size that stands in a module's code where another would do, and the same code with the other.

`x.transpose(1, 2).reshape(B, N, C)` joins the heads of an attention and their width to C, which was read from the
*input*. So written, a head can only go together with channels of the input. With -1 in the place of C the code does the
same, and heads can go on their own. The number of channels in a head, computed as `C // heads`, stays what it was.

Nothing of this touches a user's class: a module whose code must change gets a subclass of its class, with the methods
compiled anew from their source, and with them the functions that they call by name.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any

from torch import nn

from icycle.errors import SurgeryError
from icycle.tracing._expressions import FLATTEN, last_argument, nodes_at, part_at, span_of
from icycle.tracing._routes import Step, class_as_written, digest_of, global_function, method_of, route_to
from icycle.tracing._site import TORCH, Site
from icycle.tracing._source import Replacement, Span, recompiled, source_of

__all__ = ["NEVER", "Edit", "edits_of", "find_edit", "rewritten"]

NEVER = -2  # no number does in this place


@dataclass(frozen=True)
class Edit:
    """An expression in the code of a module and the number that takes its place; or with the keyword "scale" a call,
    which gets the number as one more argument, with "flatten" a reshape, which becomes `flatten(number)`.

    `functions` are the method and the functions, by the names under which each calls the next, through which the code
    is reached; `calls` are the places of these names, one fewer. `digest` tells the sources of all of them.
    """

    functions: tuple[str, ...]
    span: Span
    number: float
    digest: str
    keyword: str = ""
    calls: tuple[Span, ...] = ()


def find_edit(site: Site, module: nn.Module, number: float) -> Edit | None:
    """What puts `number` in the place of the expression at `site`, in the code of `module`; None if it cannot be.

    Only an edit that is sure to run is one: from `forward` to the expression every function must be reached as a method
    of the module itself (`self.join(x)`), or by the name of a global (`split_heads(x)`, `ops.split_heads(x)`), not
    through an attribute, a table or a decorator, whose contents a copy of the code would not change. And the source of
    each must be at hand.
    """
    route = route_to(site, module)
    source = source_of(route[-1].function.__code__) if route else None
    if not route or source is None:
        return None
    nodes = (part_at(node, site) for node in nodes_at(source, site.frames[0]))
    found = [node for node in nodes if node is not None]
    if len(found) != 1:
        return None
    span = span_of(found[0], route[-1].function.__code__)
    calls = tuple(step.call for step in route[1:] if step.call is not None)
    edit = Edit(tuple(step.name for step in route), span, number, digest_of(route), site.keyword, calls)
    try:
        rewritten(type(module), [edit])
    except SurgeryError:
        return None
    return edit


def rewritten(owner: type[nn.Module], edits: Iterable[Edit]) -> type[nn.Module]:
    """The class that stands in for `owner`, itself such a class or not, with these edits in its code.

    Raises SurgeryError where the code is not what it was when the edits were found.
    """
    known: frozenset[Edit] = getattr(owner, "_icycle_edits", frozenset())
    written: Any = class_as_written(owner)
    return _rewritten(written, known | frozenset(edits))


def edits_of(module: nn.Module) -> tuple[Edit, ...]:
    """The edits in the code of a module."""
    edits = getattr(type(module), "_icycle_edits", ())
    return tuple(sorted(edits, key=lambda edit: (edit.functions, edit.calls, edit.span)))


@functools.cache
def _rewritten(owner: Any, edits: frozenset[Edit]) -> type[nn.Module]:
    methods = {edit.functions[0] for edit in edits}
    body = {name: _rewrite(owner, name, [edit for edit in edits if edit.functions[0] == name]) for name in methods}
    return type(
        owner.__name__,
        (owner,),
        {
            "__doc__": owner.__doc__,
            "__module__": owner.__module__,
            "__qualname__": owner.__qualname__,
            "__reduce_ex__": _reduce,
            "_icycle_owner": owner,
            "_icycle_edits": edits,
            **body,
        },
    )


def _reduce(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """For copy and pickle, which look classes up by their name."""
    return _revive, (type(module)._icycle_owner, edits_of(module)), vars(module)  # type: ignore[attr-defined]


def _revive(owner: type[nn.Module], edits: tuple[Edit, ...]) -> nn.Module:
    made = rewritten(owner, edits)
    return made.__new__(made)


def _rewrite(owner: type[nn.Module], name: str, edits: Sequence[Edit]) -> FunctionType:
    """The method with all of its edits. Raises SurgeryError where one does not fit."""
    method = method_of(owner, name)
    made = None
    if method is not None and all(_fits(method, edit) for edit in edits):
        made = _rebuilt(method, edits, 0)
    if made is None:
        raise SurgeryError(
            f"Expected the code of {owner.__module__}.{owner.__qualname__}.{name} to be what it was when the model was "
            "traced, but it is another. Use the same version of the library that defines it, or prune the model again."
        )
    return made


def _fits(method: FunctionType, edit: Edit) -> bool:
    """Whether the functions that an edit goes through are those for which it was made."""
    route = [Step(edit.functions[0], method)]
    for name in edit.functions[1:]:
        function = global_function(route[-1].function.__globals__, name.split("."))
        if function is None:
            return False
        route.append(Step(name, function))
    return len(edit.calls) == len(route) - 1 and digest_of(route) == edit.digest


def _rebuilt(function: FunctionType, edits: Sequence[Edit], depth: int) -> FunctionType | None:
    """A function like this one, with the edits of its own code, which calls changed functions where others are edited.

    The module's globals stay its globals, live as they are. What is called instead comes in a closure, and is called
    only as long as the global is still the function that it stands in for, or what torch.fx and torch.export put in its
    place while they look on.
    """
    replacements: list[Replacement] = []
    names: dict[str, Any] = {}
    for edit in edits:
        if len(edit.functions) == depth + 1:
            replacements.append(_replacement(function.__code__, edit))
    inner = [edit for edit in edits if len(edit.functions) > depth + 1]
    for number, call in enumerate(sorted({edit.calls[depth] for edit in inner})):
        within = [edit for edit in inner if edit.calls[depth] == call]
        name = within[0].functions[depth + 1]
        called = global_function(function.__globals__, name.split("."))
        made = _rebuilt(called, within, depth + 1) if called is not None else None
        if made is None:
            return None
        own, other, watched = f"_icycle_{number}", f"_icycle_{number}_before", f"_icycle_{number}_watched"
        names |= {own: made, other: called, watched: functools.partial(_watched_by_torch, called)}
        replacements.append(Replacement(call, f"({own} if {name} is {other} or {watched}({name}) else {name})"))
    code = recompiled(function.__code__, replacements, names)
    return None if code is None else _like(function, code, names)


def _watched_by_torch(function: FunctionType | None, current: Any) -> bool:
    """Whether torch has wrapped a function for the time in which it traces (torch.fx.wrap)."""
    code = getattr(current, "__code__", None)
    wrapped = getattr(current, "__wrapped__", None) is function
    return wrapped and code is not None and code.co_filename.startswith(TORCH)


def _replacement(code: CodeType, edit: Edit) -> Replacement:
    if not edit.keyword:
        return Replacement(edit.span, repr(edit.number))
    source = source_of(code)
    calls = (node for node in ast.walk(source.definition) if isinstance(node, ast.Call)) if source else ()
    call = next((call for call in calls if span_of(call, code) == edit.span), None)
    if edit.keyword == FLATTEN and call is not None and isinstance(call.func, ast.Attribute):
        start = span_of(call.func.value, code)[2:]  # behind what is reshaped
        return Replacement((*start, *edit.span[2:]), f".{FLATTEN}({edit.number})")
    last = None if call is None else last_argument(call)
    line, column = edit.span[2:] if last is None else span_of(last, code)[2:]  # behind it
    return Replacement((line, column, line, column), f", {edit.keyword}={edit.number!r}")


def _like(function: FunctionType, code: CodeType, names: dict[str, Any]) -> FunctionType:
    """A function with this code that is otherwise the same; `names` are in its closure."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells |= {name: CellType(value) for name, value in names.items()}
    closure = tuple(cells[name] for name in code.co_freevars)
    made = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    for name in ("__kwdefaults__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        setattr(made, name, getattr(function, name))
    return made
