"""Autograd functions that have a rule of their own: each is observed as one operation, and not seen through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch

from icycle.tracing._modes import Operations
from icycle.tracing._registry import AUTOGRAD_RULES, Rule

__all__ = ["autograd_functions_as_one"]


@dataclass(frozen=True)
class _AutogradOperation:
    """An autograd function in the place of the operations that its forward is made of."""

    function: type[torch.autograd.Function]
    rule: Rule
    tags: tuple[Any, ...] = ()

    def name(self) -> str:
        return f"autograd::{self.function.__name__}"


@contextmanager
def autograd_functions_as_one(operations: Operations) -> Iterator[None]:
    """Meanwhile show calls of the registered functions to the observer of `operations`.

    Code often keeps `apply` in a variable of its own, so it is `forward` that is exchanged: every call comes by it.
    """
    before = {function: vars(function).get("forward") for function in AUTOGRAD_RULES}
    try:
        for function, rule in AUTOGRAD_RULES.items():
            function.forward = staticmethod(_observed(operations, _AutogradOperation(function, rule)))  # type: ignore[method-assign]
        yield
    finally:
        for function, own in before.items():
            if own is None:
                del function.forward
            else:
                function.forward = own  # type: ignore[method-assign]


def _observed(operations: Operations, operation: _AutogradOperation) -> Any:
    """The function's forward, observed; the rule sees the arguments of `apply`, without the context."""
    forward = operation.function.forward
    takes_context = operation.function.setup_context is torch.autograd.Function.setup_context

    @wraps(forward)
    def observed(*args: Any) -> Any:
        context, own = (args[:1], args[1:]) if takes_context else ((), args)
        return operations.as_one(operation, partial(forward, *context), own, {})

    return observed
