"""The search for a sub-network: one threshold over all groups, found by bisection on the exact cost."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from icycle.errors import BudgetError, StructureError
from icycle.selection._allowed_counts import Lattice, Settled
from icycle.selection._budget import Budget, Tightest
from icycle.selection._ranking import Ranking
from icycle.selection._refine import CostFunction, SteppedCost, distance, refine
from icycle.structure import Group, Structure, SubNetwork

__all__ = ["achieved", "select", "select_ratio", "smallest"]


def select(
    structure: Structure,
    scores: Mapping[str, torch.Tensor],
    budget: Budget,
    *,
    limit: float = 0.75,
    limit_rate: float = 0.1,
    round_to: int = 1,
    min_keep: int = 1,
    cost_factor: bool = True,
    tolerance: float = 0.005,
    costs: Mapping[str, CostFunction] | None = None,
    allowed: Mapping[str, float] | None = None,
) -> SubNetwork:
    """The sub-network of the best channels whose cost is closest to the budget, and at most `tolerance` above it; of
    several costs, the one that is closest to its part of the budget.

    Source: One-Cycle Structured Pruning (arXiv 2501.13439), with the exact cost in place of copies of the model.

    Args:
        scores: group name -> (size,), higher is kept, +inf must stay; equal scores go in order of group and channel.
        limit, limit_rate: of a group's C channels at most `C * limit * (1 - exp(-limit_rate * C))` go, to the nearest
            channel (and never more than `C * limit`), so small groups keep more.
        round_to: widths are rounded to multiples of it (a channel m elements wide counts m times). Groups of fewer
            channels are not rounded, and any group may stay whole.
        min_keep: no group keeps fewer channels.
        cost_factor: multiply scores by `1 - softmax(ln(G) * c / max(c))` (divide those below zero), c being the cost
            freed per channel of each of the G groups, so that expensive channels go more readily. Only ratios of costs
            count: neither the input's resolution nor the unit matters, and one expensive group among many cheap ones
            has a factor of about a half.
        tolerance: a threshold that lands within this share of the whole network's cost is taken as it is. Where none
            does (coarse steps), single groups are moved, at the least loss of scores, until the cost is as close below
            as it gets.
        costs: costs beside those of the structure that a budget may name. Of one that has steps (`icycle.latency`), a
            group keeps only counts at which it costs less than at any larger count.
        allowed: by name, what single costs may come to, in their units, where the budget is not a fraction of what the
            cost says that the whole network has (which may be known better than by prediction).

    Raises:
        BudgetError: the budget is out of reach within the limits (the message names the smallest cost), or a setting is
            out of range.
        StructureError: no group is prunable, or a group has no scores.
        CriterionError: a score is not a number, or there is not one for each channel.
    """
    if not (0 < limit <= 1 and limit_rate > 0 and tolerance >= 0):  # NaN is not, either
        raise BudgetError(
            f"Expected 0 < limit <= 1, limit_rate > 0 and tolerance >= 0, but got {limit}, {limit_rate}, {tolerance}."
        )
    own = budget.costs_in({**structure.costs, **(costs or {})})
    full = np.array([group.size for group in structure.prunable], dtype=np.int64)
    known = allowed or {}
    allowed = {name: known[name] if name in known else budget.allowed(name, own[name](full)) for name in own}
    cost = Tightest(own, allowed)
    factor = _cost_factor(cost.gradient(full)) if cost_factor and len(full) else None
    ranking = Ranking(structure, scores, factor)

    lattice = _lattice(structure, ranking, limit, limit_rate, round_to, min_keep)
    margin = tolerance * min(cost(full) / allowed[name] for name, cost in own.items())
    stepped = [cost for cost in own.values() if isinstance(cost, SteppedCost)]
    settled = _settled(lattice, stepped, full) if stepped else lattice
    _require_reach(budget, own, allowed, settled.lowest, full, margin, advice(limit, round_to, min_keep))
    counts = _closest(ranking, settled, cost, 1.0, margin)
    if stepped:  # which counts are worth having depends a little on the others
        settled = _settled(lattice, stepped, counts)
        counts = _closest(ranking, settled, cost, 1.0, margin)
    return ranking.subnetwork(_with_what_is_free(counts, ranking, settled, cost))


def smallest(
    structure: Structure,
    scores: Mapping[str, torch.Tensor],
    *,
    limit: float = 0.75,
    limit_rate: float = 0.1,
    round_to: int = 1,
    min_keep: int = 1,
) -> SubNetwork:
    """The sub-network from which as many channels are gone as the limits of `select` allow."""
    ranking = Ranking(structure, scores)
    lattice = _lattice(structure, ranking, limit, limit_rate, round_to, min_keep)
    return ranking.subnetwork(lattice.lowest)


def _lattice(
    structure: Structure, ranking: Ranking, limit: float, limit_rate: float, round_to: int, min_keep: int
) -> Lattice:
    def removable(group: Group) -> int:
        return min(_limit(group.size, limit, limit_rate), ranking.removable[group.name])

    return Lattice.of(structure, removable, round_to=round_to, min_keep=min_keep)


def _settled(lattice: Lattice, stepped: Sequence[SteppedCost], counts: np.ndarray) -> Settled:
    return Settled.on(lattice, lambda group, values: np.sum([cost.sweep(counts, group, values) for cost in stepped], 0))


def _require_reach(
    budget: Budget,
    costs: Mapping[str, CostFunction],
    allowed: Mapping[str, float],
    lowest: np.ndarray,
    full: np.ndarray,
    margin: float,
    remedy: str,
) -> None:
    for name, cost in costs.items():
        smallest, whole = cost(lowest), cost(full)
        if smallest > allowed[name] * (1 + margin):
            unit = {"latency": " ms of", "memory": " bytes of"}.get(name, "")
            raise BudgetError(
                f"Expected {name}={getattr(budget, name)!r} to be within reach, but the smallest sub-network has "
                f"{_number(smallest)}{unit} {name} ({100 * smallest / whole:.3g}%); {remedy}."
            )


def advice(limit: float = 0.75, round_to: int = 1, min_keep: int = 1) -> str:
    """What to do about a budget out of reach; a setting at its loosest is not named."""
    ways = {"raise limit": limit < 1, "lower round_to": round_to > 1, "lower min_keep": min_keep > 1}
    return ", or ".join(["ask for at least that", *(way for way, helps in ways.items() if helps)])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def select_ratio(
    structure: Structure,
    scores: Mapping[str, torch.Tensor],
    ratio: float,
    *,
    groups: Collection[str] | None = None,
    scope: Literal["group", "global"] = "group",
    round_to: int = 1,
    min_keep: int = 1,
) -> SubNetwork:
    """Remove a share of the channels of `groups` (default: all prunable ones); all others stay whole.

    Scope "group" removes the ceil(ratio * size) worst channels of each group, "global" the ceil(ratio * total) worst
    of all of them together. `round_to` and `min_keep` are those of `select` and may change the counts.

    Raises:
        BudgetError: ratio is not in 0..1 (1 excluded), or the scope is unknown.
        StructureError: a name in `groups` is not that of a prunable group.
    """
    if not 0 <= ratio < 1:
        raise BudgetError(f"Expected 0 <= ratio < 1, the share of channels to remove, but got {ratio}.")
    if scope not in ("group", "global"):
        raise BudgetError(f"Expected scope 'group' or 'global', but got {scope!r}.")
    names = {group.name for group in structure.prunable}
    chosen = names if groups is None else set(groups)
    if chosen - names:
        raise StructureError(f"Expected names of prunable groups, but got {sorted(chosen - names)}.")
    ranking = Ranking(
        structure,
        {**scores, **{name: torch.full((structure[name].size,), math.inf, device="cpu") for name in names - chosen}},
    )
    lattice = Lattice.of(structure, lambda group: ranking.removable[group.name], round_to=round_to, min_keep=min_keep)
    if scope == "group":
        removed = np.array([_share(group.size, ratio) if group.name in chosen else 0 for group in structure.prunable])
        return ranking.subnetwork(lattice.nearest(np.maximum(ranking.sizes - removed, lattice.lowest)))
    target = len(ranking) - _share(sum(structure[name].size for name in chosen), ratio)
    return ranking.subnetwork(_closest(ranking, lattice, _Channels(), target, margin=len(ranking)))


class _Channels:
    """The number of channels, as a cost."""

    def __call__(self, counts: np.ndarray) -> int:
        return int(counts.sum())

    def gradient(self, counts: np.ndarray) -> np.ndarray:
        return np.ones(len(counts))


def _limit(size: int, limit: float, rate: float) -> int:
    """How many of `size` channels may go. To the nearest, since 47.9 of 64 would leave 17, which 8 does not divide."""
    return min(math.floor(size * limit + 1e-9), round(size * limit * (1 - math.exp(-rate * size))))


def _share(size: int, ratio: float) -> int:
    return math.ceil(ratio * size - 1e-9)  # 0.7 of 10 is 7, though 0.7 * 10 is a little more


def achieved(structure: Structure, subnet: SubNetwork) -> dict[str, float]:
    """The share of each of the structure's costs that `subnet` keeps, 0..1."""
    full = np.array([group.size for group in structure.prunable], dtype=np.int64)
    counts = subnet.counts(structure)
    return {name: cost(counts) / max(cost(full), 1) for name, cost in structure.costs.items()}


def _cost_factor(freed: np.ndarray) -> np.ndarray | None:
    """(groups,): 1 - softmax(ln(G) * freed / max(freed)); None where there is nothing to weigh."""
    if len(freed) < 2 or freed.max() <= 0:
        return None
    powers = len(freed) ** (freed / freed.max())
    return 1 - powers / powers.sum()


def _with_what_is_free(counts: np.ndarray, ranking: Ranking, lattice: Lattice, cost: CostFunction) -> np.ndarray:
    """(groups,): the counts, but as much as it may be of those groups that the cost does not depend on (of a peak,
    those that are not there when it is reached), first of the group that has lost most."""
    groups = np.flatnonzero((cost.gradient(counts) == 0) & (counts < lattice.size))
    lost = ranking.lost(groups, counts[groups])
    for group in groups[np.argsort(-lost, kind="stable")]:
        level, larger = cost(counts), lattice.larger(int(group), int(counts[group]))
        free, dear = -1, len(larger)  # places in `larger`
        while dear - free > 1:
            middle = (free + dear) // 2
            free, dear = (middle, dear) if cost(_with(counts, group, larger[middle])) <= level else (free, middle)
        counts = counts if free < 0 else _with(counts, group, larger[free])
    return counts


def _with(counts: np.ndarray, group: int, count: int) -> np.ndarray:
    changed = counts.copy()
    changed[group] = count
    return changed


def _closest(ranking: Ranking, lattice: Lattice, cost: CostFunction, target: float, margin: float) -> np.ndarray:
    """(groups,): the kept counts whose cost is closest to `target`, and below it where there are such; those of one
    threshold if within `margin`."""

    def counts_after(removed: int) -> np.ndarray:
        return lattice.nearest(np.maximum(ranking.kept_after(removed), lattice.lowest))

    above, below = 0, len(ranking)  # the cost after `above` removals is over the target, after `below` it is not
    while below - above > 1:
        middle = (above + below) // 2
        if cost(counts_after(middle)) > target:
            above = middle
        else:
            below = middle
    probes = [counts_after(above), counts_after(below)]
    if min(abs(cost(counts) - target) for counts in probes) > margin:
        # The group whose coarse step crosses the target stays on either side of it while others make up, or moves too.
        step = probes[0] != probes[1]
        starts = [(counts, within) for counts in probes for within in (lattice.fixed(step, counts), lattice)]
        probes = [refine(counts, ranking, within, cost, target, margin) for counts, within in starts]
    return min(probes, key=lambda counts: (distance(gap := cost(counts) - target, margin), abs(gap)))
