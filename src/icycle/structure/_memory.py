"""The memory that a run takes at once, as a function of the kept counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from icycle.axes import Polynomial
from icycle.structure._operations import Operation, Piece

__all__ = ["Peak"]


class Peak:
    """The most bytes that results of operations take at one moment of the run in evaluation mode.

    Neither parameters nor inputs count, nor what an operation needs only while it runs. What is held at which moment is
    what was seen in the trace: results live as long as the model's code holds them.

    Args:
        operations: of the run, in order.
        size: number of groups.
    """

    def __init__(self, operations: Sequence[Operation], size: int) -> None:
        self._operations = operations
        self._size = size

    def __call__(self, counts: np.ndarray) -> int:
        """With `counts` (groups,) channels kept in each prunable group."""
        return int(self._bytes(counts).max(initial=0))

    def gradient(self, counts: np.ndarray) -> np.ndarray:
        """(groups,) float64: what one more channel of each group costs at the moment at which most is held."""
        held = self._bytes(counts)
        result = np.zeros(self._size)
        if len(held) == 0:
            return result
        share, factors = self._moments[held.argmax()], self._factors
        values = self._values(counts)[factors].astype(np.float64)
        for column in range(factors.shape[1]):
            others = np.delete(values, column, axis=1).prod(axis=1)
            inside = factors[:, column] < self._size
            np.add.at(result, factors[inside, column], (share * others)[inside])
        return result

    def _bytes(self, counts: np.ndarray) -> np.ndarray:
        """(moments,): held at each."""
        return np.asarray(self._moments @ self._values(counts)[self._factors].prod(axis=1))

    def _values(self, counts: np.ndarray) -> np.ndarray:
        return np.append(np.asarray(counts, dtype=np.int64), 1)

    @property
    def _moments(self) -> np.ndarray:
        """(moments, terms): bytes for each unit of every term."""
        return self._laid_out[0]

    @property
    def _factors(self) -> np.ndarray:
        """(terms, degree): the group numbers that a term multiplies, padded with the number of a constant 1."""
        return self._laid_out[1]

    @cached_property
    def _laid_out(self) -> tuple[np.ndarray, np.ndarray]:
        sizes = {piece.number: _bytes_of(piece) for operation in self._operations for piece in operation.made}
        terms = list(dict.fromkeys(monomial for size in sizes.values() for monomial in size.terms))
        place = {monomial: number for number, monomial in enumerate(terms)}
        held = [[number for number in moment if number in sizes] for moment in _fullest(self._operations)]
        moments = np.zeros((len(held), len(terms)), dtype=np.int64)
        for row, numbers in zip(moments, held, strict=True):
            for number in numbers:
                for monomial, coefficient in sizes[number].terms.items():
                    row[place[monomial]] += coefficient
        degree = max(map(len, terms), default=0)
        factors = [(*monomial, *[self._size] * (degree - len(monomial))) for monomial in terms]
        return moments, np.array(factors, dtype=np.int64).reshape(len(terms), degree)


def _fullest(operations: Iterable[Operation]) -> list[frozenset[int]]:
    """What is held at those moments after which something is let go of."""
    found: list[frozenset[int]] = []
    for operation in operations:
        held = frozenset(operation.held)
        if found and found[-1] <= held:
            found[-1] = held
        elif not found or not held <= found[-1]:
            found.append(held)
    return list(dict.fromkeys(found))


def _bytes_of(piece: Piece) -> Polynomial:
    total = Polynomial.constant(piece.bytes)
    for size in piece.sizes:
        total = total * size
    return total
