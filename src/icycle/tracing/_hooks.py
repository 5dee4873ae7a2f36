"""Which hooks only watch a model, and which are part of what it computes."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from functools import partial
from types import CodeType
from typing import Any

from torch import nn

from icycle.tracing._modules import named_modules

__all__ = ["has_watchers", "watchers"]


def has_watchers(model: nn.Module) -> bool:
    """Whether a module of the model has a hook that only watches."""
    return any(True for _, module in named_modules(model) for _ in watchers(module))


def watchers(module: nn.Module) -> Iterator[tuple[dict[int, Any], int]]:
    """The registry and the key of every hook on the module's forward that only watches.

    A watcher sees the real model, and a copy that is traced is none of its business. Torch's own hooks (weight norm)
    are no watchers, and no hook is that could change what passes: one that returns something, or calls a method in
    place ("add_"). What a hook writes by an index is taken for an entry in notes of its own.
    """
    for registry in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in registry.items():
            if not (getattr(hook, "__module__", None) or type(hook).__module__).startswith("torch.") and _watches(hook):
                yield registry, key


def _watches(hook: Any) -> bool:
    code = _code_of(hook)
    if code is None:
        return type(getattr(hook, "__self__", None)) in (list, set, dict)  # list.append, say
    in_place = any(name.endswith("_") and not name.endswith("__") for name in code.co_names)
    return not in_place and (_returns_nothing(code) or _only_takes_notes(code))


def _code_of(hook: Any) -> CodeType | None:
    while isinstance(hook, partial):
        hook = hook.func
    function = hook if hasattr(hook, "__code__") else inspect.getattr_static(type(hook), "__call__", None)
    return getattr(function, "__code__", None)


def _returns_nothing(code: CodeType) -> bool:
    """Whether every way out of the code returns the constant None."""
    return all(
        before is not None and before.opname == "LOAD_CONST" and before.argval is None for before in _ways_out(code)
    )


def _only_takes_notes(code: CodeType) -> bool:
    """Whether the code is one call that puts something into a list, a set or a dict, and so returns nothing:
    `lambda module, inputs, output: notes.append(output)`."""
    ways = list(_ways_out(code))
    called = len(ways) == 1 and ways[0] is not None and ways[0].opname.startswith("CALL")
    return code.co_name == "<lambda>" and called and not _NOTING.isdisjoint(code.co_names)


_NOTING = frozenset(("append", "extend", "insert", "update"))  # of containers, and never of tensors


def _ways_out(code: CodeType) -> Iterator[dis.Instruction | None]:
    """What comes before every return: what loads or computes the value that is returned."""
    before: dis.Instruction | None = None
    for step in dis.get_instructions(code):
        if step.opname == "RETURN_VALUE":
            yield before
        elif step.opname == "RETURN_CONST":  # Python 3.12: a load of the constant, too
            yield step._replace(opname="LOAD_CONST")
        before = step
