"""The algebra of dimensions: expressions over axes, their unification, and exact sizes as polynomials. No torch
here."""

from icycle.axes._dims import (
    Axis,
    Dim,
    Product,
    Sum,
    is_pinned,
    leaves,
    mark_inexact,
    pin,
    product,
    resolve,
    sum_of,
)
from icycle.axes._polynomial import Polynomial, count
from icycle.axes._unify import balance, cut, factor, regroup, unify

__all__ = [
    "Axis",
    "Dim",
    "Polynomial",
    "Product",
    "Sum",
    "balance",
    "count",
    "cut",
    "factor",
    "is_pinned",
    "leaves",
    "mark_inexact",
    "pin",
    "product",
    "regroup",
    "resolve",
    "sum_of",
    "unify",
]
