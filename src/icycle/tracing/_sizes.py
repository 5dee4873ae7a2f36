"""Integers that remember where they came from: a module's attribute or a tensor's dimension, through + - * //.

A size that reaches `view`, `split`, `expand` and the like says through its origin what must follow when channels go:
the attribute is set to the new count, two dimensions keep equal counts, and a literal pins."""

from __future__ import annotations

import math
import numbers
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, SupportsIndex

from icycle.axes import Dim, Polynomial, count
from icycle.tracing._site import is_users

__all__ = [
    "COMPARISONS",
    "FUNCTIONS",
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
    """`symbol` (one of + - * // %, or a comparison, which gives 0 or 1) applied to two origins."""

    symbol: str
    left: Origin
    right: Origin


Origin = FromDim | FromAttribute | Literal | Operation

FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class TracedInt(int):
    """An int with an `origin`. Every other method than + - * // % gives a plain number, and is reported to the origin;
    so are comparisons and the truth of a size, as a "branch" of an origin that is the comparison itself.

    Python gives no way to see some uses: range(n), items[n], math.log(n), 1.0 / n and 1.0 < n (a float on the left)
    take the number out of any int. Text made of a size is not followed. Where such a number is given to an operation,
    the dry run sees that it has changed (engine/_scalars.py); what else becomes of it, only a trial in numbers.
    """

    origin: Origin

    def __new__(cls, value: int, origin: Origin) -> TracedInt:
        traced = super().__new__(cls, value)
        traced.origin = origin
        return traced

    def __rshift__(self, other: SupportsIndex) -> Any:
        return self // (1 << operator.index(other))

    def __lshift__(self, other: SupportsIndex) -> Any:
        return self * (1 << operator.index(other))

    def __pos__(self) -> TracedInt:
        return self

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **others: Any) -> Any:
        """A function of numpy: it gets the plain number."""
        self._read(function.__name__, 0, sys._getframe(1))
        plain = (int.__int__(value) if isinstance(value, TracedInt) else value for value in inputs)
        return getattr(function, method)(*plain, **others)

    def __neg__(self) -> TracedInt:
        return TracedInt(-int(self), Operation("-", Literal(0), self.origin))

    def report(self, calculation: str, operand: int) -> None:
        """Say that the value itself is used, as the left (0) or the right (1) operand of "pow", "mul" and the like."""
        for leaf in operands(self.origin):
            if isinstance(leaf, (FromDim, FromAttribute)) and leaf.used is not None:
                leaf.used(self, calculation, operand)
                return

    def _read(self, calculation: str, operand: int, frame: FrameType) -> None:
        """Report what the model's own code does; what torch's and ours do with a size, the rules of operations know."""
        if is_users(frame.f_code.co_filename):
            self.report(calculation, operand)

    def __bool__(self) -> bool:
        truth = int.__bool__(self)
        if is_users(sys._getframe(1).f_code.co_filename):
            self._decide("!=", 0, truth)
        return truth

    def _decide(self, symbol: str, other: Any, truth: bool) -> None:
        """Report that the model's own code has compared this size, and goes on by the truth of it."""
        bound = _whole(symbol, other)
        if bound is not None:
            TracedInt(truth, Operation(symbol, self.origin, origin_of(bound))).report("branch", 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedInt:
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


def _define(name: str, symbol: str) -> None:
    function = FUNCTIONS[symbol]

    def forward(self: TracedInt, other: SupportsIndex) -> Any:
        if type(other) not in (int, TracedInt):
            self._read(name, 0, sys._getframe(1))
            return getattr(int, f"__{name}__")(self, other)
        return TracedInt(function(int(self), int(other)), Operation(symbol, self.origin, origin_of(other)))

    def reflected(self: TracedInt, other: SupportsIndex) -> Any:
        if type(other) not in (int, TracedInt):
            self._read(name, 1, sys._getframe(1))
            return getattr(int, f"__r{name}__")(self, other)
        return TracedInt(function(int(other), int(self)), Operation(symbol, origin_of(other), self.origin))

    setattr(TracedInt, f"__{name}__", forward)
    setattr(TracedInt, f"__r{name}__", reflected)


def _define_comparison(name: str, symbol: str) -> None:
    def compare(self: TracedInt, other: Any) -> Any:
        if not isinstance(other, (int, numbers.Real)):
            return NotImplemented
        truth = COMPARISONS[symbol](int.__int__(self), int.__int__(other) if isinstance(other, int) else other)
        if is_users(sys._getframe(1).f_code.co_filename):  # torch compares sizes all the time, and only to check them
            self._decide(symbol, other, truth)
        return truth

    setattr(TracedInt, name, compare)


def _whole(symbol: str, other: Any) -> int | None:
    """The integer with which an integer compares as with `other`; None where the result is the same for them all."""
    if isinstance(other, int):
        return other
    if not math.isfinite(other):
        return None
    below = math.floor(other)
    if below == other:
        return below
    return None if symbol in ("==", "!=") else below + (symbol in ("<", ">="))


def _define_number(name: str, calculation: str, operand: int) -> None:
    def as_number(self: TracedInt, *others: Any) -> Any:
        self.report(calculation, operand)
        return getattr(int, f"__{name}__")(self, *others)

    setattr(TracedInt, f"__{name}__", as_number)


def _define_read(name: str, operand: int) -> None:
    plain = getattr(int, name)

    def read(self: TracedInt, *others: Any, **named: Any) -> Any:
        self._read(name.strip("_"), operand, sys._getframe(1))
        return plain(self, *others, **named)

    setattr(TracedInt, name, read)


for _name, _symbol in (("add", "+"), ("sub", "-"), ("mul", "*"), ("floordiv", "//"), ("mod", "%")):
    _define(_name, _symbol)
for _symbol, _compare in COMPARISONS.items():
    _define_comparison(f"__{_compare.__name__}__", _symbol)
for _name in ("truediv", "pow", "float"):
    _define_number(_name, _name, 0)
for _name in ("truediv", "pow"):
    _define_number(f"r{_name}", _name, 1)
for _name in ("divmod", "and", "or", "xor", "invert", "abs", "int", "trunc", "floor", "ceil", "round"):
    _define_read(f"__{_name}__", 0)
for _name in ("divmod", "and", "or", "xor", "lshift", "rshift"):
    _define_read(f"__r{_name}__", 1)
for _name in (
    "bit_length",
    "to_bytes",
    "as_integer_ratio",
    "conjugate",
    *(["bit_count"] if hasattr(int, "bit_count") else []),
):
    _define_read(_name, 0)


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


def evaluate(origin: Origin, attributes: Mapping[AttributeKey, Polynomial]) -> Polynomial | None:
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
    if origin.symbol == "%":
        if not left.terms.keys() - {()} and not right.terms.keys() - {()}:
            return Polynomial.constant(left({}) % right({}))
        return Polynomial.constant(0) if left.divided_by(right) is not None else None
    if origin.symbol == "//":
        if not left.terms.keys() - {()} and not right.terms.keys() - {()}:
            return Polynomial.constant(left({}) // right({}))
        return left.divided_by(right)
    return {"+": lambda: left + right, "-": lambda: left + -right, "*": lambda: left * right}[origin.symbol]()


def solve(
    origin: Origin, target: Polynomial, attributes: Mapping[AttributeKey, Polynomial]
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
    if origin.symbol == "%":
        return None
    if origin.symbol == "*":
        inverse = target.divided_by(value)
    elif origin.symbol == "+":
        inverse = target + -value
    elif origin.symbol == "-":
        inverse = target + value if free is origin.left else value + -target
    elif free is origin.left:
        inverse = target * value
    return None if inverse is None else solve(free, inverse, attributes)
