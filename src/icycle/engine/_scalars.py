"""The numbers that operations are given beside tensors: one that a removal changes was made of a size.

`x * math.log(x.shape[1])` shows no size to a trace: Python turns it into a float unseen. But without some channels the
multiplication is given another number.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch

from icycle.tracing import Step, base_name

__all__ = ["Given", "changed", "scalars"]

Given = tuple[str, tuple[Any, ...]]  # an operation's name, and the numbers it was given


def scalars(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments that are numbers and no sizes: factors, bounds, exponents. A default is one as well, for torch
    leaves out what happens to be equal to it."""
    values = (
        args[place] if place < len(args) else kwargs.get(name, default) for place, name, default in _numbers(operation)
    )
    return tuple(value for value in values if isinstance(value, (int, float, complex)))


def changed(steps: Iterable[Step], run: Iterable[Given]) -> Step | None:
    """The first recorded step that was given another number in a later run; None where no number differs, or the two
    did not take the same course, so that nothing can be said."""
    numbers = ((step, scalars(step.operation, *step.arguments)) for step in steps if step.inputs)
    recorded = [(step, str(step.operation), given) for step, given in numbers if given]
    again = list(run)
    if [name for _, name, _ in recorded] != [name for name, _ in again]:
        return None
    pairs = zip(recorded, again, strict=True)
    return next((step for (step, _, before), (_, now) in pairs if not _same(before, now)), None)


def _same(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    return len(before) == len(now) and all(a == b or (a != a and b != b) for a, b in zip(before, now, strict=True))


@functools.cache
def _numbers(operation: Any) -> tuple[tuple[int, str, Any], ...]:
    """Place, name and default of the arguments that may be numbers. Those of a product may change with the way in which
    torch arranges it."""
    schema = getattr(operation, "_schema", None)  # a function that is observed as one operation has none
    if schema is None or base_name(operation) in ("addmm", "baddbmm"):
        return ()
    tensors = torch.Tag.pointwise in operation.tags  # of these, a number may stand for one
    return tuple(
        (place, argument.name, argument.default_value if argument.has_default_value() else None)
        for place, argument in enumerate(schema.arguments)
        if _is_number(argument.type, tensors)
    )


def _is_number(kind: Any, tensors: bool) -> bool:
    inner = kind.getElementType() if isinstance(kind, torch._C.OptionalType) else kind
    return isinstance(inner, (torch._C.NumberType, torch._C.FloatType)) or (
        tensors and isinstance(inner, torch._C.TensorType)
    )
