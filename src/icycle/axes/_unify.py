"""Making two expressions the same, and cutting, factoring and regrouping expressions.

Where no common refinement exists both sides are pinned: less can be removed than might be, and never something wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from icycle.axes._dims import Axis, Dim, Product, Sum, is_pinned, leaves, pin, product, resolve, sum_of

__all__ = ["cut", "factor", "regroup", "unify"]


def unify(a: Dim, b: Dim, why: str) -> None:
    """Make `a` and `b` one and the same; `why` is the reason given where they must be pinned instead."""
    a, b = resolve(a), resolve(b)
    if a is b or a == b:
        return
    if a.size != b.size:
        _pin_both(a, b, f"{why}: sizes {a.size} and {b.size} differ")
    elif isinstance(a, Axis) and isinstance(b, Axis):
        _join(a, b)
    elif isinstance(a, Axis):
        _forward(a, b, why)
    elif isinstance(b, Axis):
        _forward(b, a, why)
    elif isinstance(a, Sum) or isinstance(b, Sum):
        _unify_sums(a, b, why)
    else:
        _unify_products(a, b, why)


def _join(a: Axis, b: Axis) -> None:
    root, other = (a, b) if a.created < b.created else (b, a)
    other.link = root
    root.pinned = root.pinned or other.pinned
    root.inexact = root.inexact or other.inexact


def _forward(axis: Axis, expression: Dim, why: str) -> None:
    if any(leaf is axis for leaf in leaves(expression)):
        pin(expression, f"{why}: a dimension would contain itself")
        return
    axis.link = expression
    for leaf in leaves(expression):
        leaf.pinned = leaf.pinned or axis.pinned
        leaf.inexact = leaf.inexact or axis.inexact


def _unify_sums(a: Dim, b: Dim, why: str) -> None:
    """Cut both sides at each other's boundaries, and unify piece by piece."""
    left, right = [a], [b]
    while left and right:
        x, y = _next_part(left), _next_part(right)
        if x.size > y.size:
            x, y, left, right = y, x, right, left
        if x.size < y.size:
            pieces = cut(y, x.size)
            if pieces is None:
                for rest in (x, y, *left, *right):
                    pin(rest, f"{why}: no common cut")
                return
            y, rest = pieces
            right.append(rest)
        unify(x, y, why)


def _next_part(stack: list[Dim]) -> Dim:
    """The first part of what remains; parts are resolved anew, because an earlier step may have cut them."""
    dim = resolve(stack.pop())
    if isinstance(dim, Sum):
        stack.extend(reversed(dim.operands[1:]))
        return dim.operands[0]
    return dim


def _unify_products(a: Product, b: Product, why: str) -> None:
    """Refine both sides to common factors, innermost first."""
    left: list[Dim] = list(a.operands)
    right: list[Dim] = list(b.operands)
    while left and right:
        x, y = resolve(product(left[-1:])), resolve(product(right[-1:]))
        if x.size < y.size:
            x, y, left, right = y, x, right, left
        split = factor(x, y.size) if x.size > y.size else None
        if x.size > y.size and split is None:
            _pin_both(product(left), product(right), f"{why}: no common factors")
            return
        left.pop()
        right.pop()
        if split is not None:
            outer, x = split
            left.append(outer)
        unify(x, y, why)


def _pin_both(a: Dim, b: Dim, why: str) -> None:
    pin(a, why)
    pin(b, why)


def cut(dim: Dim, at: int) -> tuple[Dim, Dim] | None:
    """The first `at` elements of `dim` and the others; None where the cut would go through a row of a product."""
    dim = resolve(dim)
    if at in (0, dim.size):
        empty = Axis(0, pinned="empty")
        return (empty, dim) if at == 0 else (dim, empty)
    if isinstance(dim, Axis):
        first, second = (Axis(size, dim.pinned, dim.inexact) for size in (at, dim.size - at))
        dim.link = Sum(first, second)
        return first, second
    if isinstance(dim, Sum):
        return _cut_sum(dim, at)
    head, *tail = dim.operands
    row = math.prod(operand.size for operand in tail)
    pieces = cut(head, at // row) if at % row == 0 else None
    if pieces is not None:
        return product((pieces[0], *tail)), product((pieces[1], *tail))
    if is_pinned(dim):
        return Axis(at, "part of a pinned dimension"), Axis(dim.size - at, "part of a pinned dimension")
    return None


def _cut_sum(dim: Sum, at: int) -> tuple[Dim, Dim] | None:
    before: list[Dim] = []
    for position, part in enumerate(dim.operands):
        if at < part.size:
            pieces = cut(part, at)
            if pieces is None:
                return None
            return sum_of((*before, pieces[0])), sum_of((pieces[1], *dim.operands[position + 1 :]))
        before.append(part)
        at -= part.size
        if at == 0:
            return sum_of(before), sum_of(dim.operands[position + 1 :])
    raise ValueError(f"cannot cut {dim} beyond its end")


def factor(dim: Dim, inner: int) -> tuple[Dim, Dim] | None:
    """`dim` as rows of `inner` elements: (outer, inner); None where it is not made of such rows."""
    dim = resolve(dim)
    if dim.size % inner:
        return None
    if inner == 1 or inner == dim.size:
        single = Axis(1, pinned="a single element")
        return (dim, single) if inner == 1 else (single, dim)
    if isinstance(dim, Axis):
        rows, row = (Axis(size, dim.pinned, dim.inexact) for size in (dim.size // inner, inner))
        dim.link = Product(rows, row)
        return rows, row
    if isinstance(dim, Sum):
        return _factor_sum(dim, inner)
    return _factor_product(dim, inner)


def _factor_sum(dim: Sum, inner: int) -> tuple[Dim, Dim] | None:
    """Every part must be made of rows, and all parts of the same rows."""
    if any(part.size % inner for part in dim.operands):
        return None
    outers: list[Dim] = []
    row: Dim | None = None
    for part in dim.operands:
        pieces = factor(part, inner)
        if pieces is None:
            return None
        outers.append(pieces[0])
        if row is None:
            row = pieces[1]
        else:
            unify(row, pieces[1], "parts of a concatenation are split into equal rows")
    assert row is not None
    return sum_of(resolve(outer) for outer in outers), resolve(row)


def _factor_product(dim: Product, inner: int) -> tuple[Dim, Dim] | None:
    taken: list[Dim] = []
    size = 1
    rest = list(dim.operands)
    while size < inner:
        last = rest.pop()
        need = inner // size
        if need % last.size == 0:
            taken.insert(0, last)
            size *= last.size
            continue
        pieces = factor(last, need) if last.size % need == 0 else None
        if pieces is None:
            return None
        rest.append(pieces[0])
        taken.insert(0, pieces[1])
        size *= need
    return product(rest), product(taken)


def regroup(dims: Sequence[Dim], sizes: Sequence[int], why: str) -> tuple[Dim, ...]:
    """The dimensions of a tensor after a reshape from `dims` to `sizes` (none of them -1).

    Dimensions are matched in the smallest stretches that hold equally many elements, so that a stretch which cannot be
    regrouped pins only itself.
    """
    if 0 in sizes:
        for dim in dims:
            pin(dim, f"{why}: an empty tensor")
        return tuple(Axis(size, why) for size in sizes)
    result: list[Dim] = []
    source, target = list(dims), list(sizes)
    while source or target:
        have, want = _stretch(source, target)
        result.extend(_regroup_stretch(have, want, why))
    return tuple(result)


def _stretch(source: list[Dim], target: list[int]) -> tuple[list[Dim], list[int]]:
    """Take from the front of both the shortest runs with equal numbers of elements."""
    have: list[Dim] = [source.pop(0)] if source else []
    want: list[int] = [target.pop(0)] if target else []
    total_have, total_want = math.prod(dim.size for dim in have), math.prod(want)
    while total_have != total_want:
        if total_have < total_want:
            have.append(source.pop(0))
            total_have *= have[-1].size
        else:
            want.append(target.pop(0))
            total_want *= want[-1]
    return have, want


def _regroup_stretch(have: list[Dim], want: list[int], why: str) -> list[Dim]:
    if [dim.size for dim in have] == want:
        return have
    if not want:  # only dimensions of one element are left, and dropped
        return []
    rest = product(resolve(dim) for dim in have)
    found: list[Dim] = []
    for size in reversed(want[1:]):
        pieces = factor(rest, size)
        if pieces is None:
            for dim in have:
                pin(dim, f"{why}: sizes {[dim.size for dim in have]} cannot be regrouped as {want}")
            return [Axis(size, f"{why}: regrouped from a pinned dimension") for size in want]
        rest, inner = pieces
        found.insert(0, inner)
    return [rest, *found]
