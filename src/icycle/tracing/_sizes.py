"""Integers that remember where they came from: a module's attribute or a tensor's dimension, through + - * //.

A size that reaches `view`, `split`, `expand` and the like says through its origin what must follow when channels go:
the attribute is set to the new count, two dimensions keep equal counts, and a literal pins."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

from icycle.axes import Dim, Polynomial, count

__all__ = [
    "AttributeKey",
    "FromAttribute",
    "FromDim",
    "Literal",
    "Operation",
    "Origin",
    "TracedInt",
    "Used",
    "origin_of",
]

Used = Callable[["TracedInt", str, int], None]  # a size, of which calculation, and of which operand (0: left, 1: right)
AttributeKey = tuple[str, str, int | None]  # module path, attribute, place in a tuple or list


@dataclass(frozen=True, eq=False)
class FromDim:
    """The number of elements of a tensor's dimension; `used` is told of sizes of this origin that serve as numbers."""

    dim: Dim
    used: Used | None = None


@dataclass(frozen=True)
class FromAttribute:
    """An integer attribute of a module; `used` is told of sizes of this origin that serve as numbers."""

    key: AttributeKey
    value: int
    used: Used | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Literal:
    """A number written in the code, or of unknown origin."""

    value: int


@dataclass(frozen=True, eq=False)
class Operation:
    """`symbol` (one of + - * //) applied to two origins."""

    symbol: str
    left: Origin
    right: Origin


Origin = FromDim | FromAttribute | Literal | Operation

_FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
}


class TracedInt(int):
    """An int with an `origin`. Everything that is not + - * // gives a plain number, and is reported to the origin."""

    origin: Origin

    def __new__(cls, value: int, origin: Origin) -> TracedInt:
        traced = super().__new__(cls, value)
        traced.origin = origin
        return traced

    def __neg__(self) -> TracedInt:
        return TracedInt(-int(self), Operation("-", Literal(0), self.origin))

    def report(self, calculation: str, operand: int) -> None:
        """Say that the value itself is used, as the left (0) or the right (1) operand of "pow", "mul" and the like."""
        for leaf in operands(self.origin):
            if isinstance(leaf, (FromDim, FromAttribute)) and leaf.used is not None:
                leaf.used(self, calculation, operand)
                return

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedInt:
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


def _define(name: str, symbol: str) -> None:
    function = _FUNCTIONS[symbol]

    def forward(self: TracedInt, other: SupportsIndex) -> Any:
        if type(other) not in (int, TracedInt):
            return getattr(int, f"__{name}__")(self, other)
        return TracedInt(function(int(self), int(other)), Operation(symbol, self.origin, origin_of(other)))

    def reflected(self: TracedInt, other: SupportsIndex) -> Any:
        if type(other) not in (int, TracedInt):
            return getattr(int, f"__r{name}__")(self, other)
        return TracedInt(function(int(other), int(self)), Operation(symbol, origin_of(other), self.origin))

    setattr(TracedInt, f"__{name}__", forward)
    setattr(TracedInt, f"__r{name}__", reflected)


def _define_number(name: str, calculation: str, operand: int) -> None:
    def as_number(self: TracedInt, *others: Any) -> Any:
        self.report(calculation, operand)
        return getattr(int, f"__{name}__")(self, *others)

    setattr(TracedInt, f"__{name}__", as_number)


for _name, _symbol in (("add", "+"), ("sub", "-"), ("mul", "*"), ("floordiv", "//")):
    _define(_name, _symbol)
for _name in ("truediv", "pow", "float"):
    _define_number(_name, _name, 0)
for _name in ("truediv", "pow"):
    _define_number(f"r{_name}", _name, 1)


def origin_of(value: Any) -> Origin:
    """Where an integer came from."""
    return value.origin if isinstance(value, TracedInt) else Literal(int(value))


def operands(origin: Origin) -> Iterator[Origin]:
    """The leaves of an origin."""
    if isinstance(origin, Operation):
        yield from operands(origin.left)
        yield from operands(origin.right)
    else:
        yield origin


def evaluate(origin: Origin, attributes: dict[AttributeKey, Polynomial]) -> Polynomial | None:
    """The integer as a polynomial in the kept counts; None where it is not one (a quotient that leaves a rest)."""
    if isinstance(origin, FromDim):
        return count(origin.dim)
    if isinstance(origin, Literal):
        return Polynomial.constant(origin.value)
    if isinstance(origin, FromAttribute):
        return attributes.get(origin.key, Polynomial.constant(origin.value))
    left, right = evaluate(origin.left, attributes), evaluate(origin.right, attributes)
    if left is None or right is None:
        return None
    if origin.symbol == "//":
        if not left.terms.keys() - {()} and not right.terms.keys() - {()}:
            return Polynomial.constant(left({}) // right({}))
        return left.divided_by(right)
    return {"+": lambda: left + right, "-": lambda: left + -right, "*": lambda: left * right}[origin.symbol]()


def solve(
    origin: Origin, target: Polynomial, attributes: dict[AttributeKey, Polynomial]
) -> tuple[AttributeKey, Polynomial] | None:
    """The one attribute without a known value in `origin`, and the value that makes `origin` equal `target`."""
    if isinstance(origin, FromAttribute):
        return (origin.key, target) if origin.key not in attributes else None
    if not isinstance(origin, Operation):
        return None
    # of two unknown attributes the second is taken for a constant: channels // parts, parts of a product
    unknown_left = any(isinstance(leaf, FromAttribute) and leaf.key not in attributes for leaf in operands(origin.left))
    free, known = (origin.left, origin.right) if unknown_left else (origin.right, origin.left)
    value = evaluate(known, attributes)
    if value is None:
        return None
    inverse: Polynomial | None = None
    if origin.symbol == "*":
        inverse = target.divided_by(value)
    elif origin.symbol == "+":
        inverse = target + -value
    elif origin.symbol == "-":
        inverse = target + value if free is origin.left else value + -target
    elif free is origin.left:
        inverse = target * value
    return None if inverse is None else solve(free, inverse, attributes)
