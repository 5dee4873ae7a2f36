"""Where steps are coarse, one threshold lands too far from the budget: single groups are moved, alone or in pairs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from icycle.selection._allowed_counts import Lattice
from icycle.selection._ranking import Ranking

__all__ = ["CostFunction", "SteppedCost", "distance", "refine"]

_REACH = 3  # a move takes a group up to this many steps up or down
_PAIRED = 200  # single moves up to which pairs of them are tried too
_EXACT = 16  # moves of each round whose exact cost is computed


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


def refine(
    counts: np.ndarray, ranking: Ranking, lattice: Lattice, cost: CostFunction, target: float, margin: float
) -> np.ndarray:
    """Move one or two groups by a few steps until the cost is within `margin` of `target` or no move brings it closer.

    Of the moves that land within the margin the one that loses the least scores is made, else the one that lands
    closest below it, else closest.
    """
    gap = cost(counts) - target
    while abs(gap) > margin:
        moves, losses = _promising_moves(counts, gap, ranking, lattice, cost, margin)
        gaps = [cost(move) - target for move in moves]
        ranks = [(*distance(gap, margin), loss) for gap, loss in zip(gaps, losses, strict=True)]
        best = min(range(len(moves)), key=ranks.__getitem__, default=None)
        if best is None or distance(gaps[best], margin) >= distance(gap, margin):
            return counts
        counts, gap = moves[best], gaps[best]
    return counts


def distance(gap: float, margin: float) -> tuple[bool, float]:
    """What orders costs by how well they meet a target that they differ from by `gap`: below before above, then by
    the difference; within `margin` all are alike."""
    return gap > margin, max(abs(gap), margin)


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
