"""Polynomials with integer coefficients in the kept counts of the free axes: the exact language of sizes and costs."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass

from icycle.axes._dims import Axis, Dim, Product, resolve

__all__ = ["Polynomial", "count"]

Monomial = tuple[int, ...]  # sorted variable numbers, repeated for powers; () is the constant


@dataclass(frozen=True)
class Polynomial:
    """`terms` maps a monomial to its coefficient, never zero."""

    terms: Mapping[Monomial, int]

    @staticmethod
    def constant(value: int) -> Polynomial:
        return Polynomial({(): value} if value else {})

    @staticmethod
    def variable(number: int) -> Polynomial:
        return Polynomial({(number,): 1})

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for monomial, coefficient in other.terms.items():
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return Polynomial({monomial: c for monomial, c in terms.items() if c})

    def __mul__(self, other: Polynomial) -> Polynomial:
        terms: dict[Monomial, int] = {}
        for m1, c1 in self.terms.items():
            for m2, c2 in other.terms.items():
                monomial = tuple(sorted(m1 + m2))
                terms[monomial] = terms.get(monomial, 0) + c1 * c2
        return Polynomial({monomial: c for monomial, c in terms.items() if c})

    def __neg__(self) -> Polynomial:
        return Polynomial({monomial: -c for monomial, c in self.terms.items()})

    def divided_by(self, divisor: Polynomial) -> Polynomial | None:
        """The exact quotient by a single term, or None where there is none."""
        if len(divisor.terms) != 1:
            return Polynomial.constant(1) if self == divisor else None
        ((monomial, coefficient),) = divisor.terms.items()
        quotient: dict[Monomial, int] = {}
        for m, c in self.terms.items():
            rest = _without(m, monomial)
            if rest is None or c % coefficient:
                return None
            quotient[rest] = c // coefficient
        return Polynomial(quotient)

    @property
    def variables(self) -> frozenset[int]:
        """The numbers of the variables that occur."""
        return frozenset(number for monomial in self.terms for number in monomial)

    def bounds(self, sizes: Mapping[int, int]) -> tuple[int, int]:
        """A least and a greatest value for all variables from 1 to their `sizes`; term by term, so they may be wide."""
        ends = [(c, c * math.prod(sizes[number] for number in m)) for m, c in self.terms.items()]
        return sum(min(pair) for pair in ends), sum(max(pair) for pair in ends)

    def renamed(self, names: Mapping[int, int]) -> Polynomial:
        """The same polynomial with every variable's number replaced."""
        return Polynomial({tuple(sorted(names[number] for number in m)): c for m, c in self.terms.items()})

    def __call__(self, values: Mapping[int, int]) -> int:
        total = 0
        for monomial, coefficient in self.terms.items():
            for number in monomial:
                coefficient *= values[number]
            total += coefficient
        return total


def _without(monomial: Monomial, divisor: Monomial) -> Monomial | None:
    rest = list(monomial)
    for number in divisor:
        if number not in rest:
            return None
        rest.remove(number)
    return tuple(rest)


def count(dim: Dim) -> Polynomial:
    """How many elements of `dim` are kept; the variable of a free axis is its `created` number."""
    return Polynomial(_terms(resolve(dim)))


def _terms(resolved: Dim) -> dict[Monomial, int]:
    """Of the count; in one pass over what may be a sum of hundreds."""
    if isinstance(resolved, Axis):
        free = resolved.pinned is None and resolved.size > 1
        return {(resolved.created,): 1} if free else ({(): resolved.size} if resolved.size else {})
    parts = map(_terms, resolved.operands)
    if isinstance(resolved, Product):
        return dict(functools.reduce(operator.mul, map(Polynomial, parts)).terms)
    total: dict[Monomial, int] = {}
    for part in parts:
        for monomial, coefficient in part.items():
            total[monomial] = total.get(monomial, 0) + coefficient
    return total
