"""Where steps are coarse, one threshold lands too far from the budget, and keeps other channels than the best that it
could: single groups are moved, alone or in pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from icycle.selection._allowed_counts import Lattice
from icycle.selection._ranking import Ranking

__all__ = ["CostFunction", "ManyCost", "SteppedCost", "exchange", "refine"]

_REACH = 3  # a move takes a group up to this many steps up or down
_PAIRED = 200  # single moves up to which pairs of them are tried too
_EXACT = 16  # moves of each round whose exact cost is computed
_EXCHANGES = 40  # rounds of exchanges, at the most
_SLACK = 0.02  # how far below the cost that there was they may lead
_TRIED = 400  # exchanges of each round whose exact cost is computed


class CostFunction(Protocol):
    """What selection asks of a cost; see `icycle.structure.Cost`."""

    def __call__(self, counts: np.ndarray) -> float: ...

    def gradient(self, counts: np.ndarray) -> np.ndarray: ...


@runtime_checkable
class SteppedCost(CostFunction, Protocol):
    """A cost that may stay the same, or fall, where a count grows."""

    def sweep(self, counts: np.ndarray, group: int, values: np.ndarray) -> np.ndarray:
        """The cost, float of the shape of `values`, with each of those counts in the place of the group's own."""
        ...


@runtime_checkable
class ManyCost(CostFunction, Protocol):
    """A cost that tells faster of many sub-networks together than of each."""

    def many(self, counts: np.ndarray) -> np.ndarray:
        """The cost, float (n,), of `counts` (n, groups)."""
        ...


def refine(
    counts: np.ndarray, ranking: Ranking, lattice: Lattice, cost: CostFunction, target: float, margin: float
) -> np.ndarray:
    """Move one or two groups by a few steps until the cost is within `margin` of `target` or no move brings it closer.

    Of the moves that land within the margin the one that loses the least scores is made, else the one that lands
    closest.
    """
    gap = cost(counts) - target
    while abs(gap) > margin:
        moves, losses = _promising_moves(counts, gap, ranking, lattice, cost, margin)
        gaps = [cost(move) - target for move in moves]
        ranks = [(max(abs(gap), margin), loss) for gap, loss in zip(gaps, losses, strict=True)]
        best = min(range(len(moves)), key=ranks.__getitem__, default=None)
        if best is None or abs(gaps[best]) >= abs(gap):
            return counts
        counts, gap = moves[best], gaps[best]
    return counts


def exchange(
    counts: np.ndarray,
    ranking: Ranking,
    lattice: Lattice,
    costs_of: Callable[[np.ndarray], np.ndarray],
    limit: float,
) -> np.ndarray:
    """Give channels to one group and take some from another, as long as that loses fewer scores and the cost stays
    within `limit`, and not far below what it was; `costs_of` maps counts (n, groups) to costs (n,).

    A threshold treats all channels alike; what a channel costs differs from group to group, and from step to step. Of
    the exchanges that fit, the one that loses the least is made first.
    """
    least = (1 - _SLACK) * min(float(costs_of(counts[None])[0]), limit)
    for _ in range(_EXCHANGES):
        moves = _exchanges(counts, ranking, lattice)
        costs = costs_of(moves) if len(moves) else np.zeros(0)
        fit = moves[(least <= costs) & (costs <= limit)]
        if len(fit) == 0:
            break
        counts = fit[0]
    return counts


def _exchanges(counts: np.ndarray, ranking: Ranking, lattice: Lattice) -> np.ndarray:
    """(n, groups): new counts that lose fewer scores, those that lose the least first: one group grows, or one grows
    and another shrinks."""
    group, count = _single_moves(counts, lattice)
    loss = ranking.lost(group, count) - ranking.lost(group, counts[group])
    grows = count > counts[group]
    up, down = np.flatnonzero(grows), np.flatnonzero(~grows)
    first, second = np.repeat(up, len(down)), np.tile(down, len(up))
    apart = group[first] != group[second]
    first, second = np.append(up, first[apart]), np.append(up, second[apart])
    change = loss[first] + np.where(first == second, 0, loss[second])
    order = np.argsort(change, kind="stable")[:_TRIED]
    order = order[change[order] < -1e-9 * max(float(np.abs(loss).max(initial=0.0)), 1e-30)]
    moves = np.repeat(counts[None], len(order), 0)
    rows = np.arange(len(order))
    moves[rows, group[first[order]]] = count[first[order]]
    moves[rows, group[second[order]]] = count[second[order]]
    return moves


def _promising_moves(
    counts: np.ndarray, gap: float, ranking: Ranking, lattice: Lattice, cost: CostFunction, margin: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """The new counts, and the scores lost, of those moves that the gradient expects to land closest to the target."""
    group, count = _single_moves(counts, lattice)
    loss = ranking.lost(group, count) - ranking.lost(group, counts[group])
    freed = cost.gradient(counts)[group] * (counts[group] - count)

    single = np.arange(len(group))
    first, second = np.triu_indices(len(group), k=1) if len(group) <= _PAIRED else (single[:0], single[:0])
    first, second = np.append(single, first), np.append(single, second)  # a single move is a pair of the same
    alone, allowed = first == second, (first == second) | (group[first] != group[second])
    expected = np.abs(gap - freed[first] - np.where(alone, 0, freed[second]))
    losses = loss[first] + np.where(alone, 0, loss[second])

    rank = np.where(allowed, np.maximum(expected, margin), np.inf)
    order = np.lexsort((losses, rank))[: min(_EXACT, int(allowed.sum()))]
    moves = []
    for move in order:
        pair = [first[move], second[move]]
        moved = counts.copy()
        moved[group[pair]] = count[pair]
        moves.append(moved)
    return moves, losses[order]


def _single_moves(counts: np.ndarray, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """(moves,), (moves,): groups, and the allowed count that each could go to."""
    groups, targets = [], []
    for neighbour in (lattice.below, lattice.above):
        here = counts
        for _ in range(_REACH):
            there = neighbour(here)
            groups.append(np.flatnonzero(there != here))
            targets.append(there[groups[-1]])
            here = there
    return np.concatenate(groups), np.concatenate(targets)
