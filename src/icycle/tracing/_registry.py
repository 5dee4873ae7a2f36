"""The registry of operation rules: what each ATen operation says about the dimensions of its operands and results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from icycle.errors import TraceError
from icycle.tracing._arguments import Arguments, bind
from icycle.tracing._tracer import Tracer

__all__ = ["AUTOGRAD_RULES", "FUNCTION_RULES", "Rule", "find_rule", "register", "rule"]

Rule = Callable[[Tracer, Any, tuple[Any, ...], dict[str, Any], Any], None]
"""A rule takes (tracer, operation, arguments, keyword arguments, result) after the operation has run, relates the
dimensions of the operands, and gives every tensor in the result its dimensions with `tracer.give`."""

_rules: dict[str, Rule] = {}
FUNCTION_RULES: set[str] = set()  # "torch::name" of functions that are observed as one operation
AUTOGRAD_RULES: dict[type[torch.autograd.Function], Rule] = {}  # autograd functions that are


def register(*operations: str | type[torch.autograd.Function]) -> Callable[[Rule], Rule]:
    """Register a rule for operations by name: "relu" for aten's, "library::name" for those of other libraries.

    The in-place form (a trailing underscore) is covered by the same rule. "torch::name" stands for a whole function of
    torch: it is then observed as one operation, and what it does inside is not seen. So is an autograd function that is
    given as its class; one without a rule is seen through. The last rule that was registered for an operation counts.
    """
    for operation in operations:
        if not (isinstance(operation, str) or _is_autograd_function(operation)):
            raise TraceError(
                'Expected names of operations ("library::name") or subclasses of torch.autograd.Function, but got '
                f"{operation!r}. For a torch.library operation give the name it was defined with."
            )

    def decorate(rule: Rule) -> Rule:
        for operation in operations:
            if not isinstance(operation, str):
                AUTOGRAD_RULES[operation] = rule
                continue
            _rules[operation if "::" in operation else f"aten::{operation}"] = rule
            if operation.startswith("torch::"):
                FUNCTION_RULES.add(operation)
        return rule

    return decorate


NamedRule = Callable[[Tracer, Arguments, Any], None]


def rule(*operations: str) -> Callable[[NamedRule], NamedRule]:
    """Register a rule that takes (tracer, arguments by name, result) for operations of torch that have a schema."""

    def decorate(function: NamedRule) -> NamedRule:
        def bound(tracer: Tracer, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            function(tracer, bind(operation, args, kwargs), result)

        register(*operations)(bound)
        return function

    return decorate


def _is_autograd_function(operation: Any) -> bool:
    return isinstance(operation, type) and issubclass(operation, torch.autograd.Function)


def find_rule(operation: Any) -> Rule | None:
    """The rule for an operation: its own, or by its name, its in-place twin's name, or because it is tagged as
    pointwise."""
    own: Rule | None = getattr(operation, "rule", None)
    if own is not None:
        return own
    name = operation.name().split(".")[0]
    rule = _rules.get(name) or _rules.get(name.rstrip("_"))
    if rule is None and torch.Tag.pointwise in operation.tags:
        return _rules["aten::add"]  # the rule of all element-wise operations
    return rule
