"""Making two expressions the same, and cutting, factoring and regrouping expressions.

Where no common refinement exists both sides are pinned: less can be removed than might be, and never something wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from icycle.axes._dims import Axis, Dim, Product, Sum, is_pinned, leaves, pin, product, resolve, sum_of
from icycle.reasons import NOWHERE, Kind, Place, Reason

__all__ = ["balance", "cut", "factor", "regroup", "unify"]


def unify(a: Dim, b: Dim, where: Place) -> None:
    """Make `a` and `b` one and the same; `where` becomes part of the reason should they have to be pinned instead."""
    a, b = resolve(a), resolve(b)
    if a is b or a == b:
        return
    if a.size != b.size:
        _pin_both(a, b, Reason(Kind.SIZES_DIFFER, f"{a.size} and {b.size}", *where))
    elif isinstance(a, Axis) and isinstance(b, Axis):
        _join(a, b)
    elif isinstance(a, Axis):
        _forward(a, b, where)
    elif isinstance(b, Axis):
        _forward(b, a, where)
    elif isinstance(a, Sum) or isinstance(b, Sum):
        _unify_sums(a, b, where)
    else:
        _unify_products(a, b, where)


def _join(a: Axis, b: Axis) -> None:
    root, other = (a, b) if a.created < b.created else (b, a)
    other.link = root
    root.pinned = root.pinned or other.pinned
    root.inexact = root.inexact or other.inexact


def _forward(axis: Axis, expression: Dim, where: Place) -> None:
    if any(leaf is axis for leaf in leaves(expression)):
        pin(expression, Reason(Kind.CONTAINS_ITSELF, "", *where))
        return
    axis.link = expression
    for leaf in leaves(expression):
        leaf.pinned = leaf.pinned or axis.pinned
        leaf.inexact = leaf.inexact or axis.inexact


def _unify_sums(a: Dim, b: Dim, where: Place) -> None:
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
                    pin(rest, Reason(Kind.NO_CUT, "", *where))
                return
            y, rest = pieces
            right.append(rest)
        unify(x, y, where)


def _next_part(stack: list[Dim]) -> Dim:
    """The first part of what remains; parts are resolved anew, because an earlier step may have cut them."""
    dim = resolve(stack.pop())
    if isinstance(dim, Sum):
        stack.extend(reversed(dim.operands[1:]))
        return dim.operands[0]
    return dim


def _unify_products(a: Product, b: Product, where: Place) -> None:
    """Refine both sides to common factors, innermost first."""
    left: list[Dim] = list(a.operands)
    right: list[Dim] = list(b.operands)
    while left and right:
        x, y = resolve(product(left[-1:])), resolve(product(right[-1:]))
        if x.size < y.size:
            x, y, left, right = y, x, right, left
        split = factor(x, y.size) if x.size > y.size else None
        if x.size > y.size and split is None:
            _pin_both(product(left), product(right), Reason(Kind.NO_FACTORS, "", *where))
            return
        left.pop()
        right.pop()
        if split is not None:
            outer, x = split
            left.append(outer)
        unify(x, y, where)


def _pin_both(a: Dim, b: Dim, reason: Reason) -> None:
    pin(a, reason)
    pin(b, reason)


def cut(dim: Dim, at: int) -> tuple[Dim, Dim] | None:
    """The first `at` elements of `dim` and the others; None where the cut would go through a row of a product."""
    dim = resolve(dim)
    if at in (0, dim.size):
        empty = Axis(0, Reason(Kind.EMPTY))
        return (empty, dim) if at == 0 else (dim, empty)
    if isinstance(dim, Axis):
        first, second = (Axis(size, dim.pinned, dim.inexact) for size in (at, dim.size - at))
        dim.link = Sum(first, second)
        return first, second
    if isinstance(dim, Sum):
        return _cut_sum(dim, at)
    if is_pinned(dim):
        why = leaves(dim)[0].pinned
        return Axis(at, why), Axis(dim.size - at, why)
    return _cut_product(dim, at)


def _cut_product(dim: Product, at: int) -> tuple[Dim, Dim] | None:
    """Between two rows, cut the rows; inside a row, set that row apart first: it is one element, which always stays."""
    head, *tail = dim.operands
    row = math.prod(operand.size for operand in tail)
    pieces = cut(head, at // row)
    if pieces is None:
        return None
    if at % row == 0:
        return product((pieces[0], *tail)), product((pieces[1], *tail))
    single = cut(pieces[1], 1)
    parts = cut(product(tail), at % row) if single is not None else None
    if single is None or parts is None:
        return None
    pin(single[0], Reason(Kind.ROW_APART))
    return sum_of((product((pieces[0], *tail)), parts[0])), sum_of((parts[1], product((single[1], *tail))))


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


def balance(dims: Sequence[Dim], where: Place) -> None:
    """Make every one of `dims` keep equally many elements, though not at the same places.

    Their parts are matched by size, the largest first; where that fails the dimensions are pinned.
    """
    first, *others = dims
    for other in others:
        a, b = (sorted(_parts(dim), key=lambda part: -part.size) for dim in (first, other))
        if [part.size for part in a] == [part.size for part in b]:
            for x, y in zip(a, b, strict=True):
                if not (is_pinned(x) and is_pinned(y)):
                    unify(x, y, where)
        else:
            _pin_both(first, other, Reason(Kind.NO_EQUAL_PARTS, "", *where))


def _parts(dim: Dim) -> tuple[Dim, ...]:
    dim = resolve(dim)
    return dim.operands if isinstance(dim, Sum) else (dim,)


def factor(dim: Dim, inner: int) -> tuple[Dim, Dim] | None:
    """`dim` as rows of `inner` elements: (outer, inner); None where it is not made of such rows."""
    dim = resolve(dim)
    if dim.size % inner:
        return None
    if inner == 1 or inner == dim.size:
        single = Axis(1, Reason(Kind.SINGLE))
        return (dim, single) if inner == 1 else (single, dim)
    if isinstance(dim, Axis):
        rows, row = (Axis(size, dim.pinned, dim.inexact) for size in (dim.size // inner, inner))
        dim.link = Product(rows, row)
        return rows, row
    if isinstance(dim, Sum):
        return _factor_sum(dim, inner)
    return _factor_product(dim, inner)


def _factor_sum(dim: Sum, inner: int) -> tuple[Dim, Dim] | None:
    """Every stretch of parts must be made of rows, and all of the same rows."""
    outers: list[Dim] = []
    rows: list[Dim] = []
    rest: list[Dim] = list(reversed(dim.operands))
    while rest:
        part = rest.pop()
        if part.size % inner:
            part = _gather(part, rest, inner)  # type: ignore[assignment]
            if part is None:
                return None
        pieces = factor(part, inner)
        if pieces is None:
            return None
        outers.append(pieces[0])
        rows.append(pieces[1])
    for row in rows[1:]:
        unify(rows[0], row, NOWHERE)
    return sum_of(resolve(outer) for outer in outers), resolve(rows[0])


def _gather(part: Dim, rest: list[Dim], inner: int) -> Dim | None:
    """Whole rows from the front of `part` where it has some, else one row of it and the parts that follow."""
    if part.size > inner:
        pieces = cut(part, part.size - part.size % inner)
        if pieces is None:
            return None
        rest.append(pieces[1])
        return pieces[0]
    gathered = [part]
    size = part.size
    while size < inner:
        pieces = (rest.pop(), None) if rest[-1].size <= inner - size else cut(rest.pop(), inner - size)  # type: ignore[assignment]
        if pieces is None:
            return None
        gathered.append(pieces[0])
        size += pieces[0].size
        if pieces[1] is not None:
            rest.append(pieces[1])
    return sum_of(resolve(piece) for piece in gathered)


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


def regroup(dims: Sequence[Dim], sizes: Sequence[int], where: Place) -> tuple[Dim, ...]:
    """The dimensions of a tensor after a reshape from `dims` to `sizes` (none of them -1).

    Dimensions are matched in the smallest stretches that hold equally many elements, so that a stretch which cannot be
    regrouped pins only itself.
    """
    if 0 in sizes:
        for dim in dims:
            pin(dim, Reason(Kind.EMPTY_TENSOR, "", *where))
        return tuple(Axis(size, Reason(Kind.EMPTY_TENSOR, "", *where)) for size in sizes)
    result: list[Dim] = []
    source, target = list(dims), list(sizes)
    while source or target:
        have, want = _stretch(source, target)
        result.extend(_regroup_stretch(have, want, where))
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


def _regroup_stretch(have: list[Dim], want: list[int], where: Place) -> list[Dim]:
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
                pin(dim, Reason(Kind.NO_REGROUPING, f"{[dim.size for dim in have]} to {want}", *where))
            return [Axis(size, Reason(Kind.REGROUPED, "", *where)) for size in want]
        rest, inner = pieces
        found.insert(0, inner)
    return [rest, *found]
