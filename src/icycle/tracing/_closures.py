"""Functions in a copied model: `copy.deepcopy` shares them, and with them all that they hold of the original."""

from __future__ import annotations

import copy
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Any

import torch

from icycle.tracing._memoised import Memoised, is_memoised, without_memory

__all__ = ["rebind"]


def rebind(memo: dict[int, Any], start: int = 0, also: Iterable[Any] = ()) -> None:
    """Have the functions in the copies hold copies, too; `memo` is what `copy.deepcopy` was given, after it. Of the
    copies before place `start` of it only those that are among `also` hold any.

    This goes for what is in the cells of a closure, in defaults, and behind methods, partials and weak references. What
    cannot be copied stays shared. A function that holds nothing stays itself.
    """
    functions = _Functions(memo)
    for made in also:
        _replace_within(made, functions)
    while start < len(memo):  # what a function holds is copied, too, and may hold functions
        fresh = list(islice(memo.items(), start, None))
        start = len(memo)
        for original, made in fresh:
            if id(made) != original and original != id(memo):  # there deepcopy keeps the originals alive
                _replace_within(made, functions)


def _replace_within(made: Any, functions: _Functions) -> None:
    if isinstance(made, torch.Tensor):
        return
    if isinstance(made, dict):
        _replace_items(made, list(made.items()), functions)
    elif isinstance(made, list):
        _replace_items(made, list(enumerate(made)), functions)
    elif isinstance(made, partial):
        args = tuple(functions.bound(item) for item in made.args)
        keywords = {name: functions.bound(item) for name, item in made.keywords.items()}
        made.__setstate__((functions.bound(made.func), args, keywords, vars(made)))  # type: ignore[attr-defined]
    elif hasattr(made, "__dict__") and not isinstance(made, (type, types.FunctionType, types.ModuleType)):
        _replace_items(vars(made), list(vars(made).items()), functions)


def _replace_items(container: Any, items: list[tuple[Any, Any]], functions: _Functions) -> None:
    for key, item in items:
        if type(item) not in _COMMON and isinstance(item, _REBINDABLE):
            bound = functions.bound(item)
            if bound is not item:
                container[key] = bound


_COMMON = frozenset((type(None), bool, int, float, str, dict, list, set, OrderedDict))
# what may hold something of the original, though copied
_REBINDABLE = (types.FunctionType, types.MethodType, Memoised, weakref.ReferenceType, tuple)


class _Functions:
    """Gives functions that hold the copies in the place of those that hold the originals."""

    def __init__(self, memo: dict[int, Any]) -> None:
        self._memo = memo
        self._made: dict[int, Any] = {}
        self._known = 0  # entries of the memo that are found by their copies, too
        self._cells: dict[int, types.CellType] = {}  # two functions may share one

    def bound(self, value: Any) -> Any:
        """What is to stand in the place of `value`, an item of a copy."""
        if isinstance(value, types.FunctionType):
            return self._function(value) if _holds(value, set()) else value
        if is_memoised(value):
            return self._without_memory(value)
        if isinstance(value, types.MethodType):
            function = self.bound(value.__func__)
            return value if function is value.__func__ else types.MethodType(function, value.__self__)
        if isinstance(value, weakref.ReferenceType):
            copied = self._memo.get(id(value()))
            return value if copied is None else weakref.ref(copied)
        if type(value) is tuple:
            items = tuple(self.bound(item) for item in value)
            return value if all(new is old for new, old in zip(items, value, strict=True)) else items
        return value

    def _without_memory(self, function: Any) -> Any:
        """A copy keeps no results: they would be those of the original, or of other sizes."""
        if id(function) not in self._made:
            made = without_memory(self._copied(function.__wrapped__))
            self._made[id(function)] = self._made[id(made)] = made
        return self._made[id(function)]

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        if id(function) in self._made:
            return self._made[id(function)]
        closure = None if function.__closure__ is None else tuple(map(self._cell, function.__closure__))
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, closure)
        self._made[id(function)] = self._made[id(made)] = made  # before its cells are filled: it may hold itself
        made.__qualname__, made.__module__, made.__doc__ = function.__qualname__, function.__module__, function.__doc__
        vars(made).update(vars(function))
        made.__defaults__ = self._copied(function.__defaults__)
        made.__kwdefaults__ = self._copied(function.__kwdefaults__)
        for old, new in zip(function.__closure__ or (), closure or (), strict=True):
            if _filled(old) and not _filled(new):
                new.cell_contents = self._copied(old.cell_contents)
        return made

    def _cell(self, cell: types.CellType) -> types.CellType:
        return self._cells.setdefault(id(cell), types.CellType())

    def _copied(self, value: Any) -> Any:
        if len(self._memo) != self._known:
            for made in list(self._memo.values()):  # which a function made for a copy holds already
                self._memo.setdefault(id(made), made)
            self._known = len(self._memo)
        before = dict(self._memo)
        try:
            return self.bound(copy.deepcopy(value, self._memo))
        except Exception:  # a lock, say; what a copy has begun is not to be met again
            self._memo.clear()
            self._memo.update(before)
            return value


_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type,
    types.ModuleType,
    types.BuiltinFunctionType,
    torch.dtype,
)


def _holds(value: Any, seen: set[int]) -> bool:
    """Whether there is anything in a function that could be another in a copy."""
    if isinstance(value, tuple):
        return any(_holds(item, seen) for item in value)
    if not isinstance(value, types.FunctionType):
        return not isinstance(value, _PLAIN)
    if id(value) in seen:
        return False
    seen.add(id(value))
    held = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
    held += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    return any(_holds(item, seen) for item in held)


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (reading an empty cell raises)
    except ValueError:
        return False
    return True
