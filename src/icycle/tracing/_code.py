"""A size that stands in a module's code where another would do, and the same code with the other.

`x.transpose(1, 2).reshape(B, N, C)` joins the heads of an attention and their width to C, which was read from the
*input*. So written, a head can only go together with channels of the input. With -1 in the place of C the code does the
same, and heads can go on their own. The number of channels in a head, computed as `C // heads`, stays what it was.

Nothing of this touches a user's class: a module whose code must change gets a subclass of its class, with the methods
compiled anew from their source, and what they call by name beside them.
"""

from __future__ import annotations
import __future__

import ast
import functools
import hashlib
import inspect
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch import nn

from icycle.errors import SurgeryError

__all__ = ["Edit", "Site", "edits_of", "find_edit", "rewritten", "site_here", "user_frame"]

_LIBRARIES = (
    os.path.dirname(torch.__file__) + os.sep,
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
)
_CALLED_BY = os.path.join("torch", "nn", "modules", "module.py")  # what calls a module's forward
_FUTURE = functools.reduce(
    int.__or__, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)

_COMPREHENSIONS = ("<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>")  # code of its own within a function's

_OPERATORS: dict[str, Any] = {
    "add": ast.Add,
    "sub": ast.Sub,
    "mul": ast.Mult,
    "div": ast.Div,
    "truediv": ast.Div,
    "pow": ast.Pow,
}

Span = tuple[int, int, int, int]  # line (of a function's first line: 0), column, last line, column behind it


@dataclass(frozen=True)
class Edit:
    """An expression in the code of a module and the number that takes its place; or with a `keyword` a call, which gets
    the number as one more argument.

    `functions` are the names of the method and of the functions called by name through which the code is reached;
    `digest` tells the source of the last one.
    """

    functions: tuple[str, ...]
    span: Span
    number: float
    digest: str
    keyword: str = ""


@dataclass(frozen=True, eq=False)
class Site:
    """An expression in the course of a run.

    `path` is the module that was running; `frames` are its code, the globals, and the instruction, from the expression
    outwards to `forward`. `part` picks the expression: an argument of a reshape (`sizes` of them), or an operand of a
    `calculation`. With a `keyword` it is the call itself.
    """

    path: str
    frames: tuple[tuple[CodeType, dict[str, Any], int, int], ...]
    part: int = 0
    sizes: int | None = None
    keyword: str = ""
    calculation: str = ""

    @property
    def key(self) -> tuple[str, CodeType, int]:
        """The same for the same instruction of the same module."""
        code, _, instruction, _ = self.frames[0]
        return self.path, code, instruction


def user_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame, from `frame` outwards, that runs the model's own code: None where all of it is torch's."""
    while frame is not None and frame.f_code.co_name != "call_with":  # from there on it is the code that traces
        file = frame.f_code.co_filename
        if not file.startswith(_LIBRARIES) and not file.startswith("<"):
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
        frames.append((frame.f_code, frame.f_globals, frame.f_lasti, frame.f_lineno))
        frame = frame.f_back
        if frame is None or frame.f_code.co_filename.endswith(_CALLED_BY):
            return Site(path, tuple(frames), part, sizes, keyword, calculation)
    return None


def find_edit(site: Site, owner: type[nn.Module], number: float) -> Edit | None:
    """What puts `number` in the place of the expression at `site`, in a module of class `owner`; None if it cannot be.

    The method must be one of the class's own, a plain function called by its name whatever it calls, and the source
    of both at hand.
    """
    owner = getattr(owner, "_icycle_owner", owner)
    names = _names(site, owner)
    function = _reach(owner, names) if names else None
    parsed = _parsed(function.__code__) if function is not None else None
    if function is None or parsed is None:
        return None
    tree, digest = parsed
    node = _expression(tree, site)
    if node is None:
        return None
    edit = Edit(names, _span(node, function.__code__), number, digest, site.keyword)
    return edit if _edited(function.__code__, frozenset([edit])) is not None else None


def rewritten(owner: type[nn.Module], edits: Iterable[Edit]) -> type[nn.Module]:
    """The class that stands in for `owner`, itself such a class or not, with these edits in its code.

    Raises SurgeryError where the code is not what it was when the edits were found.
    """
    known: frozenset[Edit] = getattr(owner, "_icycle_edits", frozenset())
    original: Any = getattr(owner, "_icycle_owner", owner)
    return _rewritten(original, known | frozenset(edits))


def edits_of(module: nn.Module) -> tuple[Edit, ...]:
    """The edits in the code of a module."""
    return tuple(sorted(getattr(type(module), "_icycle_edits", ()), key=lambda edit: (edit.functions, edit.span)))


@functools.cache
def _rewritten(owner: Any, edits: frozenset[Edit]) -> type[nn.Module]:
    methods = {edit.functions[0] for edit in edits}
    body = {
        name: _rebuilt(
            _function(owner, name), [(edit.functions[1:], edit) for edit in edits if edit.functions[0] == name]
        )
        for name in methods
    }
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


# ---- from frames to functions ----


def _names(site: Site, owner: type[nn.Module]) -> tuple[str, ...]:
    """The names by which the site's code is reached from a module; () where it is not a method or called by name."""
    names: list[str] = []
    codes = [code for code, _, _, _ in site.frames if code.co_name not in _COMPREHENSIONS]
    for code in codes:
        names.insert(0, code.co_name)
        method = _function(owner, code.co_name)
        if method is not None and method.__code__ is code:
            reached = _reach(owner, tuple(names))
            return tuple(names) if reached is not None and reached.__code__ is codes[0] else ()
    return ()


def _function(owner: type[nn.Module], name: str) -> Any:
    method = inspect.getattr_static(owner, name, None)
    return method if isinstance(method, FunctionType) else None


def _reach(owner: type[nn.Module], names: tuple[str, ...]) -> FunctionType | None:
    function = _function(owner, names[0])
    for name in names[1:]:
        function = function.__globals__.get(name) if function is not None else None
    return function if isinstance(function, FunctionType) else None


def _rebuilt(function: FunctionType, edits: list[tuple[tuple[str, ...], Edit]]) -> FunctionType:
    """A function like this one, in which the edits of its own code, and those of what it calls by name, are made."""
    own = frozenset(edit for names, edit in edits if not names)
    code = _edited(function.__code__, own) if own else function.__code__
    called = {names[0] for names, _ in edits if names}
    if code is None or any(not isinstance(function.__globals__.get(name), FunctionType) for name in called):
        raise SurgeryError(
            f"Expected the code of {function.__module__}.{function.__qualname__} to be what it was when the model was "
            "traced, but it is another. Use the same version of the library that defines it, or prune the model again."
        )
    inner = {
        name: _rebuilt(function.__globals__[name], [(rest[1:], edit) for rest, edit in edits if rest[:1] == (name,)])
        for name in called
    }
    scope = {**function.__globals__, **inner} if inner else function.__globals__
    made = FunctionType(code, scope, function.__name__, function.__defaults__, function.__closure__)
    for name in ("__kwdefaults__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        setattr(made, name, getattr(function, name))
    return made


# ---- from functions to expressions ----


def _parse(code: CodeType) -> tuple[ast.FunctionDef, str] | None:
    """The definition of a function, with the lines and columns of its file, and a digest of its source."""
    try:
        source = inspect.getsource(code)
        opening = "if True:\n" if source[:1].isspace() else ""
        tree: Any = ast.parse(opening + source)
    except (OSError, TypeError, SyntaxError):
        return None
    ast.increment_lineno(tree, code.co_firstlineno - 1 - bool(opening))
    definition = tree.body[0].body[0] if opening else tree.body[0]
    return (
        (definition, hashlib.sha256(source.encode()).hexdigest()) if isinstance(definition, ast.FunctionDef) else None
    )


_parsed = functools.cache(_parse)


def _expression(tree: ast.FunctionDef, site: Site) -> ast.expr | None:
    found = [part for node in _at(tree, site) if (part := _part(node, site)) is not None]
    return found[0] if len(found) == 1 else None


def _at(tree: ast.FunctionDef, site: Site) -> Iterator[ast.expr]:
    """The expression of the site's instruction; before Python 3.11, which tells columns, all that are on its line."""
    code, _, instruction, line = site.frames[0]
    position = list(code.co_positions())[instruction // 2] if hasattr(code, "co_positions") else None
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr) or node.end_lineno is None:
            continue
        if position is None:
            here = node.lineno <= line <= node.end_lineno
        else:
            here = position == (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
        if here:
            yield node


def _part(node: ast.expr, site: Site) -> ast.expr | None:
    if isinstance(node, ast.BinOp):
        return (node.left, node.right)[site.part] if isinstance(node.op, _OPERATORS.get(site.calculation, ())) else None
    if not isinstance(node, ast.Call):
        return None
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if site.keyword:  # of a fused attention, where neither it nor **others are given
        named = {keyword.arg for keyword in node.keywords}
        return node if name == "scaled_dot_product_attention" and not named & {site.keyword, None} else None
    if node.keywords:
        return None
    if site.calculation == "float":
        return node.args[0] if len(node.args) == 1 and name in ("float", "sqrt", "log", "exp") else None
    if site.sizes is None or name not in ("view", "reshape"):
        return None
    last = node.args[-1] if node.args else None
    given = last.elts if isinstance(last, (ast.Tuple, ast.List)) else node.args
    plain = len(given) == site.sizes and not any(isinstance(size, ast.Starred) for size in given)
    return given[site.part] if plain else None


def _span(node: ast.AST, code: CodeType) -> Span:
    first = code.co_firstlineno
    place: Any = node
    return place.lineno - first, place.col_offset, place.end_lineno - first, place.end_col_offset


@functools.cache
def _edited(code: CodeType, edits: frozenset[Edit]) -> CodeType | None:
    """A function's code with these edits made; None where it does not compile to a function like it."""
    parsed = _parse(code)
    if parsed is None or code.co_freevars or any(edit.digest != parsed[1] for edit in edits):
        return None
    tree = _Replace(code, edits).visit(parsed[0])
    tree.decorator_list = []  # what they made of the function was this very function
    module = compile(ast.Module([tree], []), code.co_filename, "exec", code.co_flags & _FUTURE, dont_inherit=True)
    for made in module.co_consts:
        if isinstance(made, CodeType) and made.co_name == code.co_name and set(made.co_names) <= set(code.co_names):
            return made
    return None


class _Replace(ast.NodeTransformer):
    def __init__(self, code: CodeType, edits: Iterable[Edit]) -> None:
        self._code = code
        self._edits = {edit.span: edit for edit in edits}

    def visit(self, node: ast.AST) -> Any:
        edit = self._edits.get(_span(node, self._code)) if isinstance(node, ast.expr) else None
        if edit is None:
            return self.generic_visit(node)
        number = ast.copy_location(ast.Constant(edit.number), node)
        if not edit.keyword:
            return number
        call: Any = self.generic_visit(node)
        call.keywords.append(ast.copy_location(ast.keyword(edit.keyword, number), node))
        return call
