"""What a model's code has found out by comparing sizes: whether that holds for every number of kept elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from icycle.axes import Polynomial
from icycle.tracing._sizes import COMPARISONS, FUNCTIONS, AttributeKey, Operation, Origin, evaluate, solve

__all__ = ["always_same", "is_branch", "solve_equality", "were_equal"]

Counts = Mapping[AttributeKey, Polynomial]


def is_branch(origin: Origin) -> TypeGuard[Operation]:
    """Whether an origin is a comparison."""
    return isinstance(origin, Operation) and origin.symbol in COMPARISONS


def were_equal(origin: Operation, truth: bool) -> bool:
    """Whether a comparison of that truth has found two sizes to be equal."""
    return origin.symbol == ("==" if truth else "!=")


def always_same(origin: Operation, counts: Counts, sizes: Mapping[int, int]) -> bool:
    """Whether a comparison comes out the same for all kept counts, each from 1 to its variable's size."""
    left, right = evaluate(origin.left, counts), evaluate(origin.right, counts)
    if left is not None and right is not None:
        bounds: tuple[int, int] | None = (left + -right).bounds(sizes)
    else:
        bounds = _bounds(Operation("-", origin.left, origin.right), counts, sizes)
    if bounds is None:
        return False
    lowest, highest = map(_sign, bounds)
    return len({COMPARISONS[origin.symbol](sign, 0) for sign in range(lowest, highest + 1)}) == 1


def solve_equality(origin: Operation, counts: Counts) -> tuple[AttributeKey, Polynomial] | None:
    """The attribute without a known value on one of the two sides, and the value that makes the sides equal."""
    for side, other in ((origin.right, origin.left), (origin.left, origin.right)):
        target = evaluate(other, counts)
        found = None if target is None else solve(side, target, counts)
        if found is not None:
            return found
    return None


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _bounds(origin: Origin, counts: Counts, sizes: Mapping[int, int]) -> tuple[int, int] | None:
    """A least and a greatest value of an origin; None where it divides by what need not be positive."""
    value = evaluate(origin, counts)
    if value is not None:
        return value.bounds(sizes)
    if not isinstance(origin, Operation):
        return None
    left, right = _bounds(origin.left, counts, sizes), _bounds(origin.right, counts, sizes)
    if left is None or right is None or (origin.symbol in ("//", "%") and right[0] < 1):
        return None
    if origin.symbol == "%":
        return 0, right[1] - 1
    # monotonous in either operand, so the extremes are at the corners
    corners = [FUNCTIONS[origin.symbol](a, b) for a in left for b in right]
    return min(corners), max(corners)
