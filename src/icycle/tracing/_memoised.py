"""Functions whose results are kept (`functools.cache`, `lru_cache`): what a shadow computes must never be among them.

A size that remembers its origin is equal to the plain number, so a kept result would hand one layer the sizes of
another; a tensor without data would wait there for the model itself; and what a run before a removal has left would be
found after it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any

from torch import nn

from icycle.tracing._modules import named_modules

__all__ = ["Memoised", "forget", "is_memoised", "nothing_memoised", "without_memory"]

Memoised = type(functools.cache(lambda: None))  # what functools makes of a function
_FOREIGN = frozenset((*sys.stdlib_module_names, "torch", "numpy", "icycle"))  # packages that hold no model's code

Place = tuple[Any, str]  # a module or class, and the name of such a function in it


def is_memoised(value: Any) -> bool:
    """Whether a value is a function that `functools` keeps the results of."""
    return type(value) is Memoised


def without_memory(function: Any) -> Any:
    """What calls `function` every time, and else is as what keeps its results."""
    return functools.lru_cache(maxsize=0)(function)


@contextmanager
def nothing_memoised(model: nn.Module) -> Iterator[None]:
    """Meanwhile every such function in the model's code is computed at every call; what was kept stays kept."""
    with ExitStack() as stack:
        for owner, name in _places_of(model):
            found: Any = vars(owner).get(name)
            function = _function(found)
            if function is not None and function.cache_parameters()["maxsize"] != 0:
                fresh = without_memory(function.__wrapped__)
                stack.callback(setattr, owner, name, found)
                setattr(owner, name, fresh if found is function else type(found)(fresh))  # a static method, say
        yield


def forget(model: nn.Module) -> None:
    """Drop what such functions in the model's code have kept: it may be of the sizes before a removal."""
    for owner, name in (*_places_of(model), *((module, name) for module in model.modules() for name in vars(module))):
        function = _function(vars(owner).get(name))
        if function is not None:
            function.cache_clear()


def _places_of(model: nn.Module) -> tuple[Place, ...]:
    return _places(frozenset(type(module) for _, module in named_modules(model)), len(sys.modules))


@functools.lru_cache(maxsize=8)
def _places(kinds: frozenset[type], loaded: int) -> tuple[Place, ...]:
    """In the classes, in their modules, and in those from which these have something (`loaded` says whether more may
    have come)."""
    classes = {each for kind in kinds for each in kind.__mro__ if _is_models(each.__module__)}
    own = {sys.modules[kind.__module__] for kind in classes if kind.__module__ in sys.modules}
    values = (value for module in own for value in vars(module).values())
    names = {value.__module__ for value in values if isinstance(value, (type, FunctionType, Memoised))}
    others = {sys.modules[name] for name in names if name in sys.modules and _is_models(name)}
    owners = dict.fromkeys((*classes, *own, *others))
    return tuple((owner, name) for owner in owners for name, value in vars(owner).items() if _function(value))


def _function(value: Any) -> Any:
    """The function that keeps its results in what stands in a class or module; None where there is none."""
    function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    return function if is_memoised(function) else None


def _is_models(module: str) -> bool:
    return module.partition(".")[0] not in _FOREIGN
