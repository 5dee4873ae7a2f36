"""The latency of any sub-network as a function of its kept counts: a cost that selection can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from icycle.axes import Polynomial
from icycle.latency._table import Table

__all__ = ["Prediction", "Term"]


@dataclass(frozen=True, eq=False)
class Term:
    """Operations that share a table: `times` of them have these free sizes."""

    table: Table
    sizes: tuple[Polynomial, ...]  # in group numbers
    times: int


@dataclass(frozen=True, eq=False)
class Prediction:
    """Milliseconds of a batch: `slope` times the sum over all operations, and `offset` for the rest.

    Slope and offset come from networks that were measured whole.
    """

    terms: tuple[Term, ...] = field(repr=False)
    full: np.ndarray  # int64 (groups,)
    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, counts: np.ndarray) -> float:
        return float(self.many(np.asarray(counts)[None])[0])

    def many(self, counts: np.ndarray) -> np.ndarray:
        """(n,): for `counts` of shape (n, groups)."""
        return self.slope * self.sums(counts) + self.offset

    def sums(self, counts: np.ndarray) -> np.ndarray:
        """(n,): milliseconds that the operations take one by one."""
        total = np.zeros(len(counts))
        for term in self.terms:
            sizes = np.stack([_evaluated(size, counts) for size in term.sizes], 1)
            total += 1e3 * term.times * term.table(sizes)
        return total

    def sweep(self, counts: np.ndarray, group: int, values: np.ndarray) -> np.ndarray:
        """(n,): with each of `values` (n,) as the count of `group`."""
        rows = np.repeat(np.asarray(counts)[None], len(values), 0)
        rows[:, group] = values
        return self.many(rows)

    def gradient(self, counts: np.ndarray) -> np.ndarray:
        """(groups,): what a channel of each group costs on the average over a quarter of them, as single channels
        often cost nothing until a step comes."""
        counts = np.asarray(counts)
        fewer = np.maximum(counts - np.maximum(self.full // 4, 1), 1)
        rows = np.repeat(counts[None], len(counts), 0)
        np.fill_diagonal(rows, fewer)
        freed = self(counts) - self.many(rows)
        return np.maximum(freed, 0) / np.maximum(counts - fewer, 1)

    def corrected(self, counts: Sequence[np.ndarray], measured: Sequence[float]) -> Prediction:
        """With the slope and offset that fit networks of these counts, measured in milliseconds, best (relatively)."""
        sums, times = self.sums(np.stack(counts)), np.asarray(measured)
        weights = 1 / times
        if len(times) > 1:
            matrix = np.stack([sums * weights, weights], 1)
            (slope, offset), *_ = np.linalg.lstsq(matrix, np.ones(len(times)), rcond=None)
            if slope > 0 and offset >= 0:
                return replace(self, slope=float(slope), offset=float(offset))
        shares = sums * weights
        return replace(self, slope=float(shares.sum() / (shares**2).sum()), offset=0.0)

    def scaled(self, factor: float) -> Prediction:
        """Everything times `factor`."""
        return replace(self, slope=self.slope * factor, offset=self.offset * factor)


def _evaluated(polynomial: Polynomial, counts: np.ndarray) -> np.ndarray:
    total = np.zeros(len(counts), dtype=np.int64)
    for monomial, coefficient in polynomial.terms.items():
        total += coefficient * counts[:, list(monomial)].prod(axis=1)
    return total
