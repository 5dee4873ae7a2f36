"""Costs as exact functions of the kept counts: no copy of the model, no forward pass, no counting pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from icycle.axes import Polynomial

__all__ = ["Cost"]


class Cost:
    """A polynomial in the kept counts of the prunable groups, laid out for numpy.

    Row t of `_factors` holds the group numbers that term t multiplies, padded with the number of a constant 1.
    """

    def __init__(self, terms: Iterable[Polynomial], variables: Mapping[int, int], size: int) -> None:
        total: dict[tuple[int, ...], int] = {}
        for term in terms:
            for monomial, coefficient in term.terms.items():
                key = tuple(sorted(variables[number] for number in monomial))
                total[key] = total.get(key, 0) + coefficient
        degree = max((len(key) for key in total), default=0)
        rows = [key + (size,) * (degree - len(key)) for key in total]
        self._factors = np.array(rows, dtype=np.int64).reshape(len(rows), degree)
        self._coefficients = np.array(list(total.values()), dtype=np.int64)
        self._size = size

    def __call__(self, counts: np.ndarray) -> int:
        """The cost with `counts` (groups,) channels kept in each prunable group."""
        values = self._values(counts)[self._factors]
        return int(self._coefficients @ values.prod(axis=1))

    def gradient(self, counts: np.ndarray) -> np.ndarray:
        """(groups,) float64: what one more channel of each group costs at `counts`."""
        values = self._values(counts)[self._factors].astype(np.float64)
        result = np.zeros(self._size + 1)
        for column in range(values.shape[1]):
            others = np.delete(values, column, axis=1).prod(axis=1)
            np.add.at(result, self._factors[:, column], self._coefficients * others)
        return result[:-1]

    def _values(self, counts: np.ndarray) -> np.ndarray:
        return np.append(np.asarray(counts, dtype=np.int64), 1)
