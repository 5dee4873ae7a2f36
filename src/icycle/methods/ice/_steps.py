"""Which channels go at which step: counts are planned once, on the dense network, and the channels chosen when due."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch

from icycle.errors import StructureError, TrainingError
from icycle.latency import Attempt, Selector
from icycle.selection import Budget, select_ratio
from icycle.structure import Group, Structure, SubNetwork

__all__ = ["Scope", "Scores", "Step", "Steps", "channels_to_keep", "plan_steps", "together"]

Scores = dict[str, torch.Tensor]  # group -> (size,), higher is kept
Steps = Literal["group", "block", "all"] | int | Sequence[Sequence[str]]
Scope = Literal["group", "step", "global"]


@dataclass(frozen=True)
class Step:
    """Groups that lose channels together: group name -> the number that it keeps."""

    counts: Mapping[str, int]


def plan_steps(
    structure: Structure,
    scores: Scores,
    *,
    ratio: float | None = None,
    budget: Budget | None = None,
    groups: Sequence[str] = ("*",),
    steps: Steps = "block",
    scope: Scope = "group",
    round_to: int = 1,
    limit: float = 0.75,
    model: torch.nn.Module | None = None,
    on_attempts: Callable[[Sequence[Attempt]], object] | None = None,
) -> tuple[Step, ...]:
    """The steps that lead from the dense network to the target, front to back; groups that lose nothing are left out.

    Args:
        structure, scores: the dense network's.
        ratio, budget: exactly one: the share of channels to remove at every step, or what the result may cost.
        groups: patterns (`*.conv1`) of the names of those that may lose channels.
        steps: "group": one each; "block": neighbours that lie in one and the same module (a residual block's) go
            together; "all": everything at once; lists of group names; or a number: so many steps of all groups, each of
            which keeps the same share of what the one before has left.
        scope: who competes: the channels of each group ("group", all lose the same share), those of each step, or all
            ("global").
        round_to: as in `select`.
        limit: as in `select`, for a budget; a ratio says by itself how much may go.
        model: needed where the budget has a latency.
        on_attempts: called with the sub-networks that were measured for it.

    Raises:
        BudgetError: ratio or budget are out of range or of reach.
        StructureError: nothing is prunable, or no group has such a name.
        TrainingError: not exactly one of ratio and budget is given, or nothing would be removed.
    """
    if (ratio is None) == (budget is None):
        raise TrainingError(f"Expected exactly one of ratio and budget, but got ratio={ratio} and budget={budget}.")
    chosen = _matching(structure, groups)
    members = _members(structure, chosen, steps)
    chosen = [name for names in members for name in names]
    if budget is not None:
        ranked = _ranked(structure, scores, members, scope)
        whole = {group.name: torch.full((group.size,), math.inf, device="cpu") for group in structure.prunable}
        ranked = {**whole, **{name: ranked[name] for name in chosen}}
        weighed = scope == "global" and len(chosen) > 1
        selector = Selector(structure, budget, model)
        limits = {"limit": limit, "limit_rate": math.inf} if scope == "group" else {"limit": limit}  # all lose the same
        subnet = selector.measured(ranked, round_to=round_to, **limits, cost_factor=weighed)
        if on_attempts is not None and selector.attempts:
            on_attempts(selector.attempts)
    else:
        assert ratio is not None
        subnet = _by_ratio(structure, scores, ratio, members, scope, round_to)
    kept = {name: int(mask.sum()) for name, mask in subnet.keep.items()}
    fewer = [{name: kept[name] for name in names if kept[name] < structure[name].size} for names in members]
    planned = _parts(structure, fewer[0], steps, round_to) if isinstance(steps, int) else fewer
    result = tuple(Step(counts) for counts in planned if counts)
    if not result:
        asked = f"a ratio of {ratio}" if budget is None else f"a budget of {budget}"
        raise TrainingError(
            f"Expected to remove channels, but {asked} with round_to={round_to} removes none of the "
            f"{len(chosen)} groups' channels; ask for less to be kept, or lower round_to."
        )
    return result


def together(steps: Sequence[Step]) -> Step:
    """What they remove, in one step: of each group what the last of them leaves."""
    return Step({name: count for step in steps for name, count in step.counts.items()})


def channels_to_keep(structure: Structure, scores: Scores, step: Step) -> SubNetwork:
    """The best channels of the step's groups, by `scores` of the network as it is now; of equals the first ones go."""
    keep = {}
    for group in structure.prunable:
        kept = torch.ones(group.size, dtype=torch.bool, device="cpu")
        if group.name in step.counts:
            order = torch.argsort(scores[group.name], stable=True)
            kept[order[: group.size - step.counts[group.name]]] = False
        keep[group.name] = kept
    return SubNetwork(keep)


def _matching(structure: Structure, patterns: Sequence[str]) -> list[str]:
    names = [group.name for group in structure.prunable]
    if not names:
        reasons = "; ".join(sorted({group.reason for group in structure.groups})[:3])
        raise StructureError(f"Expected at least one prunable group, but the structure has none: {reasons}.")
    idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    if idle or not patterns:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise StructureError(f"Expected patterns of prunable groups' names, but {idle} match none; they are {shown}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _members(structure: Structure, chosen: Sequence[str], steps: Steps) -> list[list[str]]:
    """The groups of each step."""
    if steps == "all" or isinstance(steps, int):
        return [list(chosen)]
    if steps == "group":
        return [[name] for name in chosen]
    if steps == "block":
        return _blocks([structure[name] for name in chosen])
    if isinstance(steps, str):
        raise TrainingError(
            f"Expected steps 'group', 'block', 'all', a number, or lists of group names, but got {steps!r}."
        )
    given = [list(names) for names in steps]
    flat = [name for names in given for name in names]
    known = {group.name for group in structure.prunable}
    if len(set(flat)) < len(flat) or not set(flat) <= known or not all(given):
        odd = [name for name in flat if name not in known] or flat
        raise StructureError(f"Expected steps of prunable groups, each group once, but got {odd}")
    return given


def _parts(structure: Structure, kept: Mapping[str, int], parts: int, round_to: int) -> Iterator[dict[str, int]]:
    """What is kept after each of so many parts of the way, of the groups that lose channels in it."""
    before = {name: structure[name].size for name in kept}
    for part in range(1, parts + 1):
        now = {}
        for name, count in kept.items():
            size = structure[name].size
            wanted = round(size * (count / size) ** (part / parts) / round_to) * round_to
            now[name] = count if part == parts else min(max(wanted, count), before[name])
        yield {name: count for name, count in now.items() if count < before[name]}
        before = now


def _blocks(groups: Sequence[Group]) -> list[list[str]]:
    found: list[tuple[str, list[str]]] = []
    for group in groups:
        home = _home(group)
        if found and found[-1][0] == home:
            found[-1][1].append(group.name)
        else:
            found.append((home, [group.name]))
    return [names for _, names in found]


def _home(group: Group) -> str:
    """The deepest module that all of a group's parameters lie in; the group's own name where that is the model."""
    paths = [name.split(".")[:-1] for name in group.members]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common) or f"the model: {group.name}"


def _ranked(structure: Structure, scores: Scores, members: Sequence[Sequence[str]], scope: Scope) -> Scores:
    """Scores for one threshold over all groups: as they are, or as ranks (0..1) among those who compete.

    One threshold on ranks takes the same share of every group (or step), so that budgets, rounding and limits are met
    by the one search that meets them anyway.
    """
    if scope == "global":
        return dict(scores)
    pools = members if scope == "step" else [[name] for names in members for name in names]
    ranked: Scores = {}
    for pool in pools:
        values = torch.cat([scores[name].double() for name in pool])
        places = torch.empty(len(values), dtype=torch.float64, device="cpu")
        rank = torch.arange(len(values), dtype=torch.float64, device="cpu")
        places[torch.argsort(values, stable=True)] = (rank + 0.5) / len(values)
        places[values.isposinf()] = math.inf
        ranked.update(zip(pool, places.split([structure[name].size for name in pool]), strict=True))
    return ranked


def _by_ratio(
    structure: Structure, scores: Scores, ratio: float, members: Sequence[Sequence[str]], scope: Scope, round_to: int
) -> SubNetwork:
    chosen = [name for names in members for name in names]
    if scope == "group":
        return select_ratio(structure, scores, ratio, groups=chosen, round_to=round_to)
    if scope == "global":
        return select_ratio(structure, scores, ratio, groups=chosen, scope="global", round_to=round_to)
    keep = dict(SubNetwork.full(structure).keep)
    for names in members:
        within = select_ratio(structure, scores, ratio, groups=names, scope="global", round_to=round_to)
        keep.update({name: within.keep[name] for name in names})
    return SubNetwork(keep)
