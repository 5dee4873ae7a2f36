"""The registry of operation rules: what each ATen operation says about the dimensions of its operands and results."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from icycle.tracing._tracer import Tracer

__all__ = ["Rule", "find_rule", "register"]

Rule = Callable[["Tracer", Any, tuple[Any, ...], dict[str, Any], Any], None]
"""A rule takes (tracer, operation, arguments, keyword arguments, result) after the operation has run, relates the
dimensions of the operands, and gives every tensor in the result its dimensions with `tracer.give`."""

_rules: dict[str, Rule] = {}
FUNCTION_RULES: set[str] = set()  # "torch::name" of functions that are observed as one operation


def register(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations by name: "relu" for aten's, "library::name" for those of other libraries.

    The in-place form (a trailing underscore) is covered by the same rule. "torch::name" stands for a whole function of
    torch: it is then observed as one operation, and what it does inside is not seen.
    """

    def decorate(rule: Rule) -> Rule:
        for name in names:
            _rules[name if "::" in name else f"aten::{name}"] = rule
            if name.startswith("torch::"):
                FUNCTION_RULES.add(name)
        return rule

    return decorate


def find_rule(operation: Any) -> Rule | None:
    """The rule for an operation, by its name, by its in-place twin's name, or because it is tagged as pointwise."""
    name = operation.name().split(".")[0]
    rule = _rules.get(name) or _rules.get(name.rstrip("_"))
    if rule is None and torch.Tag.pointwise in operation.tags:
        return _rules["aten::add"]
    return rule
