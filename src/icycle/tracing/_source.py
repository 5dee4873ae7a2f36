"""The text that a function was compiled from, and the function compiled anew from a changed text.

The text is always that of the whole file: only there does a method know the class around it (`super()`, private names),
a function those around it, and the compiler the file's __future__ imports. What runs is never taken on trust from it:
compiled unchanged, it must give the very code that is running, or there is no text to change.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import linecache
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

__all__ = ["Replacement", "Source", "Span", "nested_codes", "recompiled", "source_of"]

Span = tuple[int, int, int, int]  # line (of a function's first line: 0), column, last line, column behind it

_FIELDS = (
    "co_name co_firstlineno co_flags co_argcount co_posonlyargcount co_kwonlyargcount co_names co_varnames co_freevars "
    "co_cellvars co_code"
).split()


@dataclass(frozen=True)
class Source:
    """Where a function stands: the `text` of its file and its syntax `tree`, in that the `statement` at the top, and in
    that its `definition`; a `digest` of its lines, decorators included."""

    text: str
    tree: ast.Module
    statement: ast.stmt
    definition: ast.FunctionDef
    digest: str


@dataclass(frozen=True)
class Replacement:
    """What takes the place of a stretch of a function's text; the lines that follow keep their numbers."""

    span: Span
    text: str


def source_of(code: CodeType) -> Source | None:
    """The source of a function that is defined by `def`; None where there is none, or it is not what runs: a file that
    has changed since it was imported, code that a tool has made or rewritten."""
    return _source_of(code, code.co_filename, _stamp(code.co_filename))


@functools.lru_cache(maxsize=256)
def _source_of(code: CodeType, filename: str, stamp: Any) -> Source | None:
    file = _file(filename, stamp)
    statement = _statement(file[1], code.co_firstlineno) if file is not None else None
    if file is None or statement is None:
        return None
    compiled = _compiled(file[1], statement, [statement], filename)
    found = _find(compiled, code) if compiled is not None else None
    definitions = [node for node in ast.walk(statement) if _defines(node, code)]
    if found is None or not _same(found, code) or len(definitions) != 1:
        return None
    definition: Any = definitions[0]
    lines = _lines(file[0])[code.co_firstlineno - 1 : definition.end_lineno]
    return Source(*file, statement, definition, hashlib.sha256(b"".join(lines)).hexdigest())


def recompiled(code: CodeType, replacements: Iterable[Replacement], names: Iterable[str] = ()) -> CodeType | None:
    """A function's code after a change of its text, in which `names` are free variables beside those that it has.

    None where the changed text does not compile to such a function. Tracebacks and debuggers find the changed text
    under a file name of its own.
    """
    source = source_of(code)
    if source is None:
        return None
    text = _replaced(source.text, replacements, code.co_firstlineno)
    filename = f"{code.co_filename}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    first, last = _first_line(source.statement), source.statement.end_lineno
    statement = "\n" * (first - 1) + b"".join(_lines(text)[first - 1 : last]).decode()
    try:
        changed = _Enclose(code, sorted(names)).visit(ast.parse(statement))
    except SyntaxError:
        return None
    compiled = _compiled(source.tree, source.statement, changed.body, filename)
    found = _find(compiled, code) if compiled is not None else None
    if found is None or not set(found.co_freevars) <= {*code.co_freevars, *names}:
        return None
    linecache.cache[filename] = (len(text), None, [line.decode() for line in _lines(text)], filename)
    # the enclosing function is ours alone, and no part of the name
    qualified: dict[str, Any] = {"co_qualname": code.co_qualname} if hasattr(code, "co_qualname") else {}
    return found.replace(**qualified)


def nested_codes(code: CodeType) -> Iterator[CodeType]:
    """The code of everything that is defined within `code`, at any depth."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from nested_codes(constant)


def _stamp(filename: str) -> Any:
    """What changes whenever the file does."""
    linecache.checkcache(filename)  # drops what has changed on disk
    linecache.getlines(filename)
    return linecache.cache.get(filename, ())[:2]  # size and time


@functools.lru_cache(maxsize=64)
def _file(filename: str, stamp: Any) -> tuple[str, ast.Module] | None:
    text = "".join(linecache.getlines(filename))
    try:
        return text, ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _statement(tree: ast.Module, line: int) -> ast.stmt | None:
    """The statement of the file that a line belongs to."""
    return next((node for node in tree.body if _first_line(node) <= line <= (node.end_lineno or 0)), None)


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return decorators[0].lineno if decorators else node.lineno


def _lines(text: str) -> list[bytes]:
    """As the compiler counts them: of bytes, because a str has more kinds of line breaks."""
    return text.encode().splitlines(keepends=True)


def _compiled(tree: ast.Module, statement: ast.stmt, body: list[ast.stmt], filename: str) -> CodeType | None:
    """What takes a statement's place in its file, compiled there, but without the other definitions of the file.

    Those do not bear on it. The rest does: __future__ imports, and whether a name is imported, which decides by which
    instructions it is called.
    """
    others = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    try:
        module = ast.Module([*(node for node in others if node is not statement), *body], [])
        return compile(module, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None


def _find(file: CodeType, code: CodeType) -> CodeType | None:
    """The function of the same name at the same line; None where there is none, or more than one."""
    sign = (code.co_name, code.co_firstlineno)
    found = [each for each in nested_codes(file) if (each.co_name, each.co_firstlineno) == sign]
    return found[0] if len(found) == 1 else None


def _defines(node: ast.AST, code: CodeType) -> bool:
    if not isinstance(node, ast.FunctionDef) or node.name != code.co_name:
        return False
    return _first_line(node) == code.co_firstlineno


def _same(a: Any, b: Any) -> bool:
    """Whether two constants are the same, and, of code, everything that decides what it does and where it stands."""
    if type(a) is not type(b):
        return False
    if isinstance(a, CodeType):
        positions = (list(each.co_positions() if hasattr(each, "co_positions") else each.co_lines()) for each in (a, b))
        return (
            all(getattr(a, name) == getattr(b, name) for name in _FIELDS)
            and next(positions) == next(positions)
            and _same(a.co_consts, b.co_consts)
        )
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b) and repr(a) == repr(b) if isinstance(a, (float, complex)) else bool(a == b)


def _replaced(text: str, replacements: Iterable[Replacement], first: int) -> str:
    """Columns count bytes. What lies within another stretch goes with it."""
    lines = _lines(text)
    spans = {replacement.span: replacement.text for replacement in replacements}
    outermost = [span for span in spans if not any(_contains(other, span) for other in spans)]
    for span in sorted(outermost, reverse=True):
        line, column, last, end = span[0] + first - 1, span[1], span[2] + first - 1, span[3]
        filled = spans[span].encode() + b"\n" * (last - line)
        joined = lines[line][:column] + filled + lines[last][end:]
        lines[line : last + 1] = joined.splitlines(keepends=True)
    return b"".join(lines).decode()


def _contains(outer: Span, inner: Span) -> bool:
    """Strictly: what is put in right behind a stretch does not lie within it."""
    return outer != inner and outer[:2] <= inner[:2] and inner[2:] <= outer[2:] and inner[:2] < outer[2:]


class _Enclose(ast.NodeTransformer):
    """Puts a function of `names` around the definition: its parameters are free variables within.

    So the function keeps its module's real globals, and is given in a closure what is not among them.
    """

    def __init__(self, code: CodeType, names: list[str]) -> None:
        self._code = code
        self._names = names

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        if not (_defines(node, self._code) and self._names):
            return self.generic_visit(node)
        header: Any = ast.parse(f"def enclosing({', '.join(self._names)}): pass").body[0]
        header.body = [node]
        return ast.copy_location(header, node)
