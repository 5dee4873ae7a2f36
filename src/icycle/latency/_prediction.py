"""The latency of any sub-network as a function of its kept counts: a cost that selection can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.optimize import nnls

from icycle.axes import Polynomial
from icycle.latency._table import Table

__all__ = ["Prediction", "Term"]

_STIFF = 1.6e-3  # (2 % of noise in a measurement, against the half by which a kind may well leave the others)^2
_DOUBTFUL, _ROUNDS = 0.04, 8  # from where on a network weighs less; rounds of weighing
_UNALIGNED = ", unaligned"
_LEAST = 0.1  # of the common weight
_READING = ("reading parameters", "reading parameters" + _UNALIGNED)  # kinds of their own, counted in parameters


@dataclass(frozen=True, eq=False)
class Term:
    """Operations that share a table: `times` of them have these free sizes."""

    table: Table
    sizes: tuple[Polynomial, ...]  # in group numbers
    parameters: Polynomial  # that each of them reads
    times: int
    kind: str = ""

    @cached_property
    def groups(self) -> frozenset[int]:
        """Numbers of the groups that its sizes depend on."""
        return frozenset(number for size in self.sizes for monomial in size.terms for number in monomial)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Milliseconds of a batch: what the operations take one by one, each kind of them times its `weights`, what it
    takes to read their parameters (an operation that is timed alone finds its own in the caches; how much of the way
    there a network can hide is another matter where sizes lack the alignment that a device wants), and `offset` for the
    rest.

    Weights (where there is none, 1 of an operation, and 0 milliseconds for each parameter) and offset come from
    networks that were measured whole.
    """

    terms: tuple[Term, ...] = field(repr=False)
    others: Polynomial = field(repr=False)  # parameters that are read by operations that have no term
    full: np.ndarray  # int64 (groups,)
    weights: Mapping[str, float] = field(default_factory=dict)
    offset: float = 0.0

    def __call__(self, counts: np.ndarray) -> float:
        return float(self.many(np.asarray(counts)[None])[0])

    def many(self, counts: np.ndarray) -> np.ndarray:
        """(n,): for `counts` of shape (n, groups)."""
        return np.maximum(self.sums(counts) @ self._weights + self.offset, 0.0)

    @cached_property
    def _weights(self) -> np.ndarray:
        return np.array([self.weights.get(kind, float(kind not in _READING)) for kind in self.kinds])

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Of the operations (where sizes lack the alignment that a device wants, it is another kind, as the device does
        another thing), and last the reading."""
        operations = {kind for term in self.terms for kind in (term.kind, term.kind + _UNALIGNED)}
        return (*sorted(operations), *_READING)

    def sums(self, counts: np.ndarray) -> np.ndarray:
        """(n, kinds): milliseconds that the operations of each kind take one by one; last the numbers of parameters."""
        total = np.zeros((len(counts), len(self.kinds)))
        total[:, self._column[_READING[0]]] += _evaluated(self.others, counts)
        for term in self.terms:
            sizes = np.stack([_evaluated(size, counts) for size in term.sizes], 1)
            unaligned = term.table.unaligned(sizes)
            for kind, own in (
                (term.kind, 1e3 * term.times * term.table(sizes)),
                (_READING[0], term.times * _evaluated(term.parameters, counts)),
            ):
                total[:, self._column[kind]] += np.where(unaligned, 0.0, own)
                total[:, self._column[kind + _UNALIGNED]] += np.where(unaligned, own, 0.0)
        return total

    @cached_property
    def _column(self) -> dict[str, int]:
        return {kind: number for number, kind in enumerate(self.kinds)}

    def sweep(self, counts: np.ndarray, group: int, values: np.ndarray) -> np.ndarray:
        """(n,): with each of `values` (n,) as the count of `group`; reads only the operations that depend on it."""
        rows = np.repeat(np.asarray(counts)[None], len(values) + 1, 0)
        rows[1:, group] = values
        touched = replace(self, terms=tuple(term for term in self.terms if group in term.groups), offset=0.0)
        parts = touched.sums(rows) @ touched._weights
        return np.maximum(self(counts) - parts[0] + parts[1:], 0.0)

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
        """With the weights and offset that fit networks of these counts, measured in milliseconds, best (relatively).

        A line through the sums of the operations comes first; then each kind leaves the common weight as far as the
        networks give reason to (ridge regression), as a kind may profit more than another from what stands before it,
        and so does reading leave 0.
        """
        times = np.asarray(measured)
        sums = self.sums(np.stack(counts)) / times[:, None]
        kinds = len(self.kinds) - len(_READING)
        slope, offset = _line(sums[:, :kinds].sum(axis=1), 1 / times)
        whole = self.sums(self.full[None])[0]
        operations, read = whole[:kinds].sum(), max(whole[kinds:].sum(), 1)
        much = slope * operations / read  # at which reading takes as long as the operations do
        terms = np.hstack([slope * sums[:, :kinds], much * sums[:, kinds:], offset / times[:, None]])
        *weights, rest = _leaving(terms, [1.0] * kinds + [0.0] * len(_READING) + [1.0])
        fitted = [slope * max(weight, _LEAST) for weight in weights[:kinds]] + [much * own for own in weights[kinds:]]
        return replace(self, weights=dict(zip(self.kinds, fitted, strict=True)), offset=offset * max(rest, _LEAST))

    def scaled(self, factor: float) -> Prediction:
        """Everything times `factor`."""
        weights = dict(zip(self.kinds, (self._weights * factor).tolist(), strict=True))
        return replace(self, weights=weights, offset=self.offset * factor)


def _leaving(terms: np.ndarray, usual: Sequence[float]) -> list[float]:
    """The weights of `terms`, (networks, terms), none below 0, whose sums are nearest to 1, and themselves near the
    `usual` ones; a network that is far off counts for less."""
    start, found, stay = np.array(usual), np.array(usual), np.sqrt(_STIFF) * np.eye(len(usual))
    for _ in range(_ROUNDS):
        off = np.abs(1 - terms @ found)
        counted = np.sqrt(np.minimum(1, _DOUBTFUL / np.maximum(off, 1e-9)))
        found, _ = nnls(np.vstack([counted[:, None] * terms, stay]), np.concatenate([counted, stay @ start]))
    weights: list[float] = found.tolist()
    return weights


def _line(sums: np.ndarray, ones: np.ndarray) -> tuple[float, float]:
    """Slope and offset, neither below 0, so that slope * sums + offset * ones is nearest to 1."""
    if len(sums) > 1:
        (slope, offset), *_ = np.linalg.lstsq(np.stack([sums, ones], 1), np.ones(len(sums)), rcond=None)
        if slope > 0 and offset >= 0:
            return float(slope), float(offset)
    return float(sums.sum() / (sums**2).sum()), 0.0


def _evaluated(polynomial: Polynomial, counts: np.ndarray) -> np.ndarray:
    total = np.zeros(len(counts), dtype=np.int64)
    for monomial, coefficient in polynomial.terms.items():
        total += coefficient * counts[:, list(monomial)].prod(axis=1)
    return total
