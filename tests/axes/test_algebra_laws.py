"""Laws of the algebra, against an oracle that knows dimensions only as explicit lists of elements.

The oracle writes every element of a dimension as a set of atoms (axis, position), all of which must be kept for the
element to be kept. An operation on dimensions is then a list of equations between elements. The algebra is right when
every choice of kept channels that it allows satisfies all equations, and keeps all atoms that had to be.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from icycle.axes import (
    Axis,
    Dim,
    Product,
    Sum,
    balance,
    count,
    cut,
    factor,
    is_pinned,
    leaves,
    mark_inexact,
    pin,
    product,
    regroup,
    resolve,
    sum_of,
    unify,
)
from icycle.reasons import Kind, Place, Reason

HERE = Place("aten::view", "block", "net.py:3")

Element = frozenset[tuple[int, int]]  # atoms: (axis number, position)


# ---- the oracle: no function of the algebra but `resolve` is used ----


def elements(dim: Dim) -> list[Element]:
    """Every element of `dim` as it stands, without following links."""
    if isinstance(dim, Axis):
        return [frozenset({(dim.created, position)}) for position in range(dim.size)]
    parts = [elements(operand) for operand in dim.operands]
    if isinstance(dim, Sum):
        return list(itertools.chain.from_iterable(parts))
    return [frozenset().union(*combination) for combination in itertools.product(*parts)]


def tensor_elements(dims: list[Dim]) -> list[Element]:
    """The elements of a tensor of these dimensions, row-major."""
    return [frozenset().union(*combination) for combination in itertools.product(*(elements(dim) for dim in dims))]


class Choice:
    """A choice of kept channels that the algebra allows: random masks on the axes that are free roots by now."""

    def __init__(self, axes: list[Axis], dice: random.Random) -> None:
        self.roots: dict[int, list[bool]] = {}
        self.atoms: dict[tuple[int, int], bool] = {}
        for axis in axes:
            for root in leaves(axis):
                if root.created not in self.roots:
                    free = root.pinned is None and root.size > 1
                    mask = [not free or dice.random() < 0.5 for _ in range(root.size)]
                    self.roots[root.created] = mask if any(mask) else [True] * root.size
            for position, element in enumerate(elements(resolve(axis))):
                self.atoms[axis.created, position] = all(self.roots[name][place] for name, place in element)

    def mask(self, kept: list[Element]) -> list[bool]:
        return [all(self.atoms[atom] for atom in element) for element in kept]

    def counts(self) -> dict[int, int]:
        return {name: sum(mask) for name, mask in self.roots.items()}


def original_axes(*dims: Dim) -> list[Axis]:
    return list({axis.created: axis for dim in dims for axis in leaves(dim)}.values())


# ---- random expressions ----


@st.composite
def expressions(draw: st.DrawFn, size: int, pool: list[Axis], depth: int = 2) -> Dim:
    """An expression of `size` elements, over new axes or axes of `pool` (so that axes occur twice)."""
    shape = draw(st.sampled_from(["axis", "sum", "product", "again"])) if depth else "axis"
    same = [axis for axis in pool if axis.size == size and axis.link is None]
    if shape == "again" and same:
        return draw(st.sampled_from(same))
    if shape == "sum" and size >= 2:
        first = draw(st.integers(1, size - 1))
        return sum_of([draw(expressions(first, pool, depth - 1)), draw(expressions(size - first, pool, depth - 1))])
    divisors = [divisor for divisor in range(2, size) if size % divisor == 0]
    if shape == "product" and divisors:
        inner = draw(st.sampled_from(divisors))
        return product([draw(expressions(size // inner, pool, depth - 1)), draw(expressions(inner, pool, depth - 1))])
    axis = Axis(size, pinned=Reason(Kind.OUTPUT) if draw(st.integers(0, 9)) == 0 else None)
    pool.append(axis)
    return axis


SIZES = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24])
SEEDS = st.integers(0, 2**16)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Dim, Dim]:
    size, pool = draw(SIZES), []
    return draw(expressions(size, pool)), draw(expressions(size, pool))


@st.composite
def shapes_of(draw: st.DrawFn, size: int) -> list[int]:
    """Sizes whose product is `size`."""
    shape = []
    while size > 1:
        shape.append(draw(st.sampled_from([divisor for divisor in range(2, size + 1) if size % divisor == 0])))
        size //= shape[-1]
    return shape or [1]


# ---- unify ----


@given(pairs(), SEEDS)
def test_unified_dimensions_keep_the_same_elements(pair: tuple[Dim, Dim], seed: int) -> None:
    a, b = pair
    axes = original_axes(a, b)
    before_a, before_b = elements(a), elements(b)
    unify(a, b, HERE)
    choice = Choice(axes, random.Random(seed))
    assert choice.mask(before_a) == choice.mask(before_b)


@given(st.lists(pairs(), min_size=2, max_size=4), SEEDS)
def test_many_unifications_hold_together(several: list[tuple[Dim, Dim]], seed: int) -> None:
    """Later ones cut and factor what earlier ones joined."""
    axes = original_axes(*itertools.chain.from_iterable(several))
    flat = [dim for pair in several for dim in pair]
    equations = []
    for a, b in itertools.combinations(flat, 2):
        if a.size == b.size:
            equations.append((elements(resolve(a)), elements(resolve(b))))
            axes += original_axes(a, b)
            unify(a, b, HERE)
    choice = Choice(axes, random.Random(seed))
    for left, right in equations:
        assert choice.mask(left) == choice.mask(right)


@given(pairs(), SEEDS)
def test_what_was_pinned_stays_whole(pair: tuple[Dim, Dim], seed: int) -> None:
    a, b = pair
    axes = original_axes(a, b)
    pinned = [axis for axis in axes if axis.pinned]
    unify(a, b, HERE)
    choice = Choice(axes, random.Random(seed))
    for axis in pinned:
        assert all(choice.mask(elements(axis)))


@given(SIZES, st.data())
def test_unify_does_not_depend_on_the_side(size: int, data: st.DataObject) -> None:
    pool: list[Axis] = []
    a, b = data.draw(expressions(size, pool)), data.draw(expressions(size, pool))
    twins = {axis.created: Axis(axis.size, axis.pinned) for axis in pool}
    c, d = (_copied(dim, twins) for dim in (a, b))
    unify(a, b, HERE)
    unify(d, c, HERE)
    assert _free_sizes(a) == _free_sizes(c)
    assert _free_sizes(b) == _free_sizes(d)


def _free_sizes(dim: Dim) -> list[int]:
    return [leaf.size for leaf in leaves(dim) if leaf.pinned is None]


def _copied(dim: Dim, twins: dict[int, Axis]) -> Dim:
    if isinstance(dim, Axis):
        return twins[dim.created]
    parts = [_copied(operand, twins) for operand in dim.operands]
    return sum_of(parts) if isinstance(dim, Sum) else product(parts)


@given(pairs())
def test_unify_again_changes_nothing(pair: tuple[Dim, Dim]) -> None:
    a, b = pair
    unify(a, b, HERE)
    before = (resolve(a), resolve(b), [(leaf.created, leaf.pinned) for leaf in leaves(a)])
    unify(a, b, HERE)
    assert before == (resolve(a), resolve(b), [(leaf.created, leaf.pinned) for leaf in leaves(a)])


def test_inexactness_travels_with_unification() -> None:
    a, b = Axis(6), product([Axis(2), Axis(3)])
    mark_inexact(a, Reason(Kind.NOT_FINITE))
    unify(a, b, HERE)
    assert {leaf.inexact for leaf in leaves(b)} == {Reason(Kind.NOT_FINITE)}


def test_different_sizes_pin_both_sides_and_say_why() -> None:
    a, b = Axis(3), Axis(4)
    unify(a, b, HERE)
    assert a.pinned == b.pinned
    assert a.pinned is not None
    assert a.pinned == Reason(Kind.SIZES_DIFFER, "3 and 4", *HERE)


def test_unify_refines_rather_than_pins() -> None:
    """Guards against an algebra that is right because it pins everything."""
    whole, rows, row = Axis(12), Axis(3), Axis(4)
    unify(whole, product([rows, row]), HERE)
    assert resolve(whole) == Product(rows, row)
    parts = [Axis(5), Axis(7)]
    other = Axis(12)
    unify(other, sum_of(parts), HERE)
    assert list(leaves(other)) == parts
    fine, coarse = product([Axis(2), Axis(2), Axis(3)]), product([Axis(4), Axis(3)])
    unify(fine, coarse, HERE)
    assert not any(leaf.pinned for leaf in leaves(coarse))
    assert resolve(coarse) == resolve(fine)


# ---- cut, factor, regroup ----


def test_an_axis_is_followed_through_more_cuts_than_functions_may_call_themselves() -> None:
    axis = rest = Axis(2000)
    for _ in range(axis.size - 1):
        pieces = cut(rest, 1)
        assert pieces is not None and isinstance(pieces[1], Axis)
        rest = pieces[1]
    assert [leaf.size for leaf in leaves(axis)] == [1] * axis.size


@given(SIZES, st.data(), SEEDS)
def test_a_cut_dimension_is_the_sum_of_its_pieces(size: int, data: st.DataObject, seed: int) -> None:
    dim = data.draw(expressions(size, []))
    at = data.draw(st.integers(0, size))
    axes, before = original_axes(dim), elements(dim)
    pieces = cut(dim, at)
    assume(pieces is not None)
    assert pieces is not None
    assert (pieces[0].size, pieces[1].size) == (at, size - at)
    axes += [leaf for piece in pieces for leaf in leaves(piece)]
    choice = Choice(axes, random.Random(seed))
    after = [element for piece in pieces for element in elements(resolve(piece))]
    assert choice.mask(before) == choice.mask(after)


@given(SIZES, st.data())
def test_pieces_put_together_are_the_dimension(size: int, data: st.DataObject) -> None:
    axis = Axis(size)
    pieces = cut(axis, data.draw(st.integers(0, size)))
    assert pieces is not None
    assert sum_of(pieces) == resolve(axis)


@given(SIZES, st.data(), SEEDS)
def test_factors_flattened_are_the_dimension(size: int, data: st.DataObject, seed: int) -> None:
    dim = data.draw(expressions(size, []))
    inner = data.draw(st.sampled_from([divisor for divisor in range(1, size + 1) if size % divisor == 0]))
    axes, before = original_axes(dim), elements(dim)
    pieces = factor(dim, inner)
    assume(pieces is not None)
    assert pieces is not None
    assert (pieces[0].size, pieces[1].size) == (size // inner, inner)
    axes += [leaf for piece in pieces for leaf in leaves(piece)]
    choice = Choice(axes, random.Random(seed))
    assert choice.mask(before) == choice.mask(tensor_elements([resolve(piece) for piece in pieces]))


@given(SIZES, st.data(), SEEDS)
def test_a_reshape_keeps_the_same_elements(size: int, data: st.DataObject, seed: int) -> None:
    dims = [data.draw(expressions(part, [])) for part in data.draw(shapes_of(size))]
    axes, before = original_axes(*dims), tensor_elements(dims)
    shape = data.draw(shapes_of(size))
    after = regroup(dims, shape, HERE)
    assert [dim.size for dim in after] == shape
    axes += original_axes(*after)
    choice = Choice(axes, random.Random(seed))
    assert choice.mask(before) == choice.mask(tensor_elements([resolve(dim) for dim in after]))


@given(SIZES, st.data())
def test_there_and_back_again(size: int, data: st.DataObject) -> None:
    """Plain axes are regrouped, and regrouped back to what they have become."""
    dims = [Axis(part) for part in data.draw(shapes_of(size))]
    there = regroup(dims, data.draw(shapes_of(size)), HERE)
    back = regroup(there, [dim.size for dim in dims], HERE)
    if not any(leaf.pinned for dim in dims for leaf in leaves(dim)):
        assert [resolve(dim) for dim in back] == [resolve(dim) for dim in dims]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_flatten_and_unflatten_pin_nothing(a: int, b: int, c: int) -> None:
    dims = [Axis(a), Axis(b), Axis(c)]
    (flat,) = regroup(dims, [a * b * c], HERE)
    back = regroup([flat], [a, b, c], HERE)
    assert [dim.size for dim in back] == [a, b, c]
    assert all(size == 1 or dim is axis for size, dim, axis in zip((a, b, c), back, dims, strict=True))
    assert not any(dim.pinned for dim in dims)


def test_an_impossible_reshape_pins_only_its_stretch() -> None:
    batch, rows, row = Axis(5), Axis(2), Axis(3)
    after = regroup([batch, product([rows, row])], [5, 3, 2], HERE)
    assert [dim.size for dim in after] == [5, 3, 2]
    assert batch.pinned is None
    assert rows.pinned == row.pinned
    assert rows.pinned == Reason(Kind.NO_REGROUPING, "[6] to [3, 2]", *HERE)
    assert is_pinned(after[1])
    assert is_pinned(after[2])


# ---- balance ----


@given(st.lists(st.integers(2, 6), min_size=1, max_size=3), SEEDS)
def test_balanced_dimensions_keep_equally_many(parts: list[int], seed: int) -> None:
    first = sum_of(Axis(size) for size in parts)
    second = sum_of(Axis(size) for size in reversed(parts))
    axes = original_axes(first, second)
    before = elements(first), elements(second)
    balance([first, second], HERE)
    choice = Choice(axes, random.Random(seed))
    assert sum(choice.mask(before[0])) == sum(choice.mask(before[1]))
    assert not is_pinned(first)


def test_dimensions_without_equal_parts_are_pinned() -> None:
    first, second = sum_of([Axis(2), Axis(4)]), Axis(6)
    balance([first, second], HERE)
    assert is_pinned(first)
    assert is_pinned(second)


# ---- counts ----


@given(SIZES, st.data(), SEEDS)
def test_counts_are_those_of_the_index_sets(size: int, data: st.DataObject, seed: int) -> None:
    dim = data.draw(expressions(size, [], depth=3))
    choice = Choice(original_axes(dim), random.Random(seed))
    # a product of an axis with itself counts pairs, so counts multiply only where the factors are kept independently
    expected = int(np.count_nonzero(_outer(dim, choice)))
    assert count(dim)(choice.counts()) == expected


def _outer(dim: Dim, choice: Choice) -> np.ndarray:
    if isinstance(dim, Axis):
        return np.array(choice.roots[dim.created], dtype=bool)
    parts = [_outer(operand, choice) for operand in dim.operands]
    if isinstance(dim, Sum):
        return np.concatenate(parts)
    mask = parts[0]
    for part in parts[1:]:
        mask = np.logical_and.outer(mask, part).reshape(-1)
    return mask


@given(SIZES, st.data(), SEEDS)
def test_quotients_undo_products(size: int, data: st.DataObject, seed: int) -> None:
    whole, divisor = (data.draw(expressions(size, [])) for _ in range(2))
    quotient = (count(whole) * count(divisor)).divided_by(count(divisor))
    if len(count(divisor).terms) == 1:
        assert quotient == count(whole)


def test_a_pinned_axis_counts_as_a_constant() -> None:
    axis = Axis(7)
    assert count(axis)({axis.created: 3}) == 3
    pin(axis, Reason(Kind.OUTPUT))
    assert count(axis)({}) == 7
