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
import hashlib
import inspect
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CellType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from icycle.errors import SurgeryError
from icycle.tracing._source import Replacement, Source, Span, nested_codes, recompiled, source_of

__all__ = [
    "FLATTEN",
    "NEVER",
    "Edit",
    "Site",
    "edits_of",
    "find_edit",
    "is_users",
    "rewritten",
    "site_here",
    "user_frame",
]

_LIBRARIES = (
    os.path.dirname(torch.__file__) + os.sep,
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
)
_TRACED_BY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_run.py")  # what calls the model
# what calls a module's forward
_CALLED_BY = os.path.join(os.path.dirname(torch.__file__), "nn", "modules", "module.py")

FLATTEN = "flatten"
NEVER = -2  # no number does in this place

_OPERATORS: dict[str, Any] = {
    "add": ast.Add,
    "sub": ast.Sub,
    "mul": ast.Mult,
    "div": ast.Div,
    "truediv": ast.Div,
    "pow": ast.Pow,
}


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


@dataclass(frozen=True, eq=False)
class _Running:
    """A frame as it was: its code, its globals, its instruction and that one's line."""

    code: CodeType
    scope: dict[str, Any]
    instruction: int
    line: int


@dataclass(frozen=True, eq=False)
class Site:
    """An expression in the course of a run.

    `path` is the module that was running; `frames` are its code, from the expression outwards to `forward`. `part`
    picks the expression: an argument of a reshape (`sizes` of them), or an operand of a `calculation`. With a `keyword`
    it is the call itself.
    """

    path: str
    frames: tuple[_Running, ...]
    part: int = 0
    sizes: int | None = None
    keyword: str = ""
    calculation: str = ""

    @property
    def key(self) -> tuple[str, CodeType, int]:
        """The same for the same instruction of the same module."""
        return self.path, self.frames[0].code, self.frames[0].instruction

    @property
    def way(self) -> tuple[str, int, tuple[tuple[CodeType, int], ...]]:
        """The same for the same part of an instruction reached through the same calls."""
        return self.path, self.part, tuple((frame.code, frame.instruction) for frame in self.frames)


@functools.cache
def is_users(filename: str) -> bool:
    """Whether a file is code of a model: not torch's, not ours, and not made up."""
    return not filename.startswith((*_LIBRARIES, "<"))


def user_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame, from `frame` outwards, that runs the model's own code: None where all of it is torch's."""
    while frame is not None and frame.f_code.co_filename != _TRACED_BY:  # from there on it is the code that traces
        if is_users(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


def site_here(
    path: str, part: int = 0, sizes: int | None = None, keyword: str = "", calculation: str = ""
) -> Site | None:
    """Where the model's own code is now, in the module at `path`."""
    frame = user_frame(sys._getframe(1))
    frames = []
    while frame is not None:
        frames.append(_Running(frame.f_code, frame.f_globals, frame.f_lasti, frame.f_lineno))
        frame = frame.f_back
        if frame is None or frame.f_code.co_filename == _CALLED_BY:
            return Site(path, tuple(frames), part, sizes, keyword, calculation)
    return None


def find_edit(site: Site, module: nn.Module, number: float) -> Edit | None:
    """What puts `number` in the place of the expression at `site`, in the code of `module`; None if it cannot be.

    Only an edit that is sure to run is one: from `forward` to the expression every function must be reached as a method
    of the module itself (`self.join(x)`), or by the name of a global (`split_heads(x)`, `ops.split_heads(x)`), not
    through an attribute, a table or a decorator, whose contents a copy of the code would not change. And the source of
    each must be at hand.
    """
    route = _route(site, module)
    source = source_of(route[-1].function.__code__) if route else None
    if not route or source is None:
        return None
    nodes = (_part(node, site) for node in _nodes_at(source, site.frames[0]))
    found = [node for node in nodes if node is not None]
    if len(found) != 1:
        return None
    span = _span(found[0], route[-1].function.__code__)
    calls = tuple(step.call for step in route[1:] if step.call is not None)
    edit = Edit(tuple(step.name for step in route), span, number, _digest(route), site.keyword, calls)
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
    original: Any = _original(owner)
    return _rewritten(original, known | frozenset(edits))


def edits_of(module: nn.Module) -> tuple[Edit, ...]:
    """The edits in the code of a module."""
    edits = getattr(type(module), "_icycle_edits", ())
    return tuple(sorted(edits, key=lambda edit: (edit.functions, edit.calls, edit.span)))


def _original(owner: type[nn.Module]) -> type[nn.Module]:
    return getattr(owner, "_icycle_owner", owner)


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


# ---- from a module's method to a function, and back ----


@dataclass(frozen=True)
class _Step:
    """A function on the way to an expression, the name by which it is called, and where the one before says it."""

    name: str
    function: FunctionType
    call: Span | None = None


def _route(site: Site, module: nn.Module) -> list[_Step]:
    """The functions from a method to the site, outermost first; [] where one is not sure to be reached again."""
    levels = _levels(site.frames)
    owner = _original(type(module))
    first = _function(owner, "forward")
    if first is None or first.__code__ is not levels[-1][-1].code or "forward" in vars(module):
        return []
    route = [_Step("forward", first)]
    for caller, callee in zip(reversed(levels[1:]), reversed(levels[:-1]), strict=True):
        steps = [step for step in _callees(route, caller, owner, module) if step.function.__code__ is callee[-1].code]
        if len(steps) != 1:
            return []
        route = steps if steps[0].call is None else [*route, steps[0]]
    return route


def _levels(frames: Sequence[_Running]) -> list[list[_Running]]:
    """The frames by function: a comprehension, or a function within a function, belongs to the one around it."""
    levels: list[list[_Running]] = []
    for frame in frames:
        if levels and any(code is levels[-1][-1].code for code in nested_codes(frame.code)):
            levels[-1].append(frame)
        else:
            levels.append([frame])
    return levels


def _callees(
    route: Sequence[_Step], caller: Sequence[_Running], owner: type[nn.Module], module: nn.Module
) -> Iterator[_Step]:
    """What a call in the last function of `route`, at the frames' instruction, is sure to call."""
    code = route[-1].function.__code__
    source = source_of(code)
    local = {name for frame in caller for name in (*frame.code.co_varnames, *frame.code.co_cellvars)}
    for node in _nodes_at(source, caller[0]) if source is not None else ():
        names = _dotted(node.func) if isinstance(node, ast.Call) else []
        if not isinstance(node, ast.Call) or not names:
            continue
        if len(route) == 1 and len(names) == 2 and source is not None and _is_self(names[0], code, caller, source):
            method = _function(owner, names[1])
            if method is not None and names[1] not in vars(module):
                yield _Step(names[1], method)
        elif names[0] not in local | set(code.co_freevars):
            function = _global(caller[0].scope, names)
            if function is not None:
                yield _Step(".".join(names), function, _span(node.func, code))


def _dotted(node: ast.expr) -> list[str]:
    """["a", "b"] of the expression a.b; [] of what is no such name."""
    if isinstance(node, ast.Name):
        return [node.id]
    before = _dotted(node.value) if isinstance(node, ast.Attribute) else []
    return [*before, node.attr] if isinstance(node, ast.Attribute) and before else []


def _is_self(name: str, code: CodeType, caller: Sequence[_Running], source: Source) -> bool:
    """Whether a name is a method's first argument, which nothing in the method gives another value."""
    within = any(name in frame.code.co_varnames for frame in caller[:-1])
    stored = any(
        isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load)
        for node in ast.walk(source.definition)
    )
    return code.co_argcount > 0 and name == code.co_varnames[0] and not within and not stored


def _function(owner: type[nn.Module], name: str) -> FunctionType | None:
    method = inspect.getattr_static(owner, name, None)
    return method if isinstance(method, FunctionType) else None


def _global(scope: dict[str, Any], names: Sequence[str]) -> FunctionType | None:
    """The function that a name stands for: a global, or one of a module that is a global."""
    value: Any = scope.get(names[0])
    for name in names[1:]:
        value = vars(value).get(name) if isinstance(value, ModuleType) else None
    return value if isinstance(value, FunctionType) else None


def _digest(route: Iterable[_Step]) -> str:
    sources = (source_of(step.function.__code__) for step in route)
    return hashlib.sha256(" ".join(source.digest if source else "" for source in sources).encode()).hexdigest()


def _rewrite(owner: type[nn.Module], name: str, edits: Sequence[Edit]) -> FunctionType:
    """The method with all of its edits. Raises SurgeryError where one does not fit."""
    method = _function(owner, name)
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
    route = [_Step(edit.functions[0], method)]
    for name in edit.functions[1:]:
        function = _global(route[-1].function.__globals__, name.split("."))
        if function is None:
            return False
        route.append(_Step(name, function))
    return len(edit.calls) == len(route) - 1 and _digest(route) == edit.digest


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
        called = _global(function.__globals__, name.split("."))
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
    return wrapped and code is not None and code.co_filename.startswith(_LIBRARIES[0])


def _replacement(code: CodeType, edit: Edit) -> Replacement:
    if not edit.keyword:
        return Replacement(edit.span, repr(edit.number))
    source = source_of(code)
    calls = (node for node in ast.walk(source.definition) if isinstance(node, ast.Call)) if source else ()
    call = next((call for call in calls if _span(call, code) == edit.span), None)
    if edit.keyword == FLATTEN and call is not None and isinstance(call.func, ast.Attribute):
        start = _span(call.func.value, code)[2:]  # behind what is reshaped
        return Replacement((*start, *edit.span[2:]), f".{FLATTEN}({edit.number})")
    last = None if call is None else _last_argument(call)
    line, column = edit.span[2:] if last is None else _span(last, code)[2:]  # behind it
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


# ---- from an instruction to an expression ----


def _nodes_at(source: Source, frame: _Running) -> Sequence[ast.expr]:
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


def _part(node: ast.expr, site: Site) -> ast.expr | None:
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


def _last_argument(call: ast.Call) -> ast.expr | None:
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    return max(arguments, key=lambda node: (node.end_lineno, node.end_col_offset), default=None)


def _span(node: ast.AST, code: CodeType) -> Span:
    first = code.co_firstlineno
    place: Any = node
    return place.lineno - first, place.col_offset, place.end_lineno - first, place.end_col_offset
