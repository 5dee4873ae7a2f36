"""What the sizes in a model's code demand of dimensions, and how it is met: an attribute follows, the code is edited,
or nothing may go."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from icycle.axes import Axis, Dim, Polynomial, count, is_pinned, leaves, mark_inexact, pin, unify
from icycle.reasons import Kind, Place, Reason
from icycle.tracing._branches import always_same, is_branch, solve_equality, were_equal
from icycle.tracing._code import NEVER, Edit, find_edit
from icycle.tracing._site import Site
from icycle.tracing._sizes import AttributeKey, FromAttribute, FromDim, Operation, Origin, evaluate, operands, solve

__all__ = ["Condition", "Conditions", "Rewrite"]


@dataclass(frozen=True, eq=False)
class Condition:
    """The number that `origin` says must be the size of `dim`; or, where that is None, must stay what it is.

    `site` is the expression in the code that gives it: with `number` in its place there is no such condition.
    """

    origin: Origin
    dim: Dim | None
    where: Place
    site: Site | None = None
    number: float = -1


@dataclass(frozen=True, eq=False)
class Rewrite:
    """An edit of the code of the module at `path`, needed once one of `dims` changes."""

    path: str
    edit: Edit
    dims: tuple[Dim, ...]


@dataclass
class Conditions:
    """What was `noted` in a trace. `attributes` are bound to a dimension, those in `solved` follow from several."""

    head_width: bool = False
    modules: Mapping[str, nn.Module] = field(default_factory=dict)  # of the shadow, by path
    attributes: dict[AttributeKey, Dim] = field(default_factory=dict)
    solved: dict[AttributeKey, Polynomial] = field(default_factory=dict)
    rewrites: tuple[Rewrite, ...] = ()
    noted: list[Condition] = field(default_factory=list)
    _edits: dict[Any, Edit | None] = field(default_factory=dict)

    def settle(self) -> None:
        """Check all conditions: solve for attributes, find edits of the code, and pin what does not hold."""
        while not self._settled():
            pass
        self.solved = {key: value for key, value in self.solved.items() if key not in self.attributes}

    def _settled(self) -> bool:
        """One pass over the conditions; False where it changed what the others depend on."""
        self.solved = {}
        sizes = {number: axis.size for number, axis in self._axes().items()}
        changed = True
        while changed:  # one attribute may be needed to solve for another
            changed, unmet = False, []
            known = {key: count(dim) for key, dim in self.attributes.items()} | self.solved
            for condition in self.noted:
                if _is_met(condition, known, sizes):
                    continue
                found = _solved(condition, known)
                if found is not None:
                    self.solved[found[0]] = known[found[0]] = found[1]
                    changed = True
                else:
                    unmet.append(condition)
        return self._settle_unmet(unmet)

    def _settle_unmet(self, unmet: list[Condition]) -> bool:
        """Force the conditions that no edit of the code removes, and only then, if there are none, note the edits."""
        places = {(condition.site.key, condition.site.part) for condition in unmet if condition.site is not None}
        calls = Counter(key for key, _ in places)
        numbers: dict[Any, set[float]] = defaultdict(set)  # that an instruction gave, at all its passes
        for condition in self.noted if unmet else ():
            if condition.site is not None:
                numbers[condition.site.key].add(condition.number)
        rewrites = []
        for condition in sorted(unmet, key=_urgency):
            site = condition.site
            alone = site is not None and calls[site.key] == 1
            edit = self._edit(condition, site, numbers[site.key]) if site is not None and alone else None
            if edit is None or site is None:
                if self._force(condition):
                    return False
            else:
                rewrites.append(Rewrite(site.path, edit, tuple(self._involved(condition))))
        self.rewrites = tuple(rewrites)
        return True

    def _edit(self, condition: Condition, site: Site, numbers: set[float]) -> Edit | None:
        """What frees the code of a condition.

        A size that serves as a number may change with the channels, and then makes the removal inexact, unless it is a
        quotient, as the width of a head is. With `head_width` all such numbers stay what they are.
        """
        stays = condition.dim is not None or self.head_width or _divides(condition.origin)
        if not stays or not self._always_the_same(condition, numbers):
            return None
        if site.way not in self._edits:
            self._edits[site.way] = find_edit(site, self.modules[site.path], condition.number)
        return self._edits[site.way]

    def _always_the_same(self, condition: Condition, numbers: set[float]) -> bool:
        """Whether the number that would be written into the code fits whenever it runs: at every pass of a loop, all of
        whose `numbers` are known, for inputs of any size."""
        dims = self._involved(condition) if condition.dim is None else []
        return (
            len(numbers) == 1 and NEVER not in numbers and not any(axis.pinned for dim in dims for axis in leaves(dim))
        )

    def _force(self, condition: Condition) -> bool:
        """Make the sizes at the two ends of an unmet condition follow each other; True where that changed anything."""
        if is_branch(condition.origin):
            return self._force_branch(condition, condition.origin)
        involved = self._involved(condition)
        if all(is_pinned(part) for part in involved):
            return False
        if condition.dim is None and not _divides(condition.origin):
            for part in involved:
                mark_inexact(part, Reason(Kind.SIZE_AS_NUMBER, "", *condition.where))
            return False
        if condition.dim is not None and not isinstance(condition.origin, Operation):
            end = involved[-1]
            if end.size == condition.dim.size:
                unify(end, condition.dim, condition.where)
                if count(end) == count(condition.dim):
                    return True
        for part in involved:
            pin(part, Reason(Kind.COMPUTED_SIZE, "", *condition.where))
        return True

    def _force_branch(self, condition: Condition, origin: Operation) -> bool:
        """Join two sizes that were found to be equal, or else pin what a comparison has read."""
        ends = self._involved(condition)
        whole = not any(isinstance(side, Operation) for side in (origin.left, origin.right))
        if whole and were_equal(origin, bool(condition.number)) and len(ends) == 2 and ends[0].size == ends[1].size:
            unify(ends[0], ends[1], condition.where)
            if count(ends[0]) == count(ends[1]):
                return True
        axes = self._axes()
        keys = [leaf.key for leaf in operands(origin) if isinstance(leaf, FromAttribute)]
        solved = [self.solved[key] for key in keys if key in self.solved]
        parts = (*ends, *(axes[number] for value in solved for number in value.variables))
        if all(is_pinned(part) for part in parts):
            return False
        for part in parts:
            pin(part, Reason(Kind.BRANCH, "", *condition.where))
        return True

    def _axes(self) -> dict[int, Axis]:
        """The axes that sizes depend on, by their number."""
        return {axis.created: axis for dim in self.sized() for axis in leaves(dim)}

    def sized(self) -> list[Dim]:
        """Every dimension to which an attribute or a computed size is tied."""
        tied = [part for condition in self.noted for part in self._involved(condition)]
        return [*self.attributes.values(), *tied]

    def _involved(self, condition: Condition) -> list[Dim]:
        """The dimension of a condition, and those that its origin refers to."""
        found = [] if condition.dim is None else [condition.dim]
        for leaf in operands(condition.origin):
            if isinstance(leaf, FromDim):
                found.append(leaf.dim)
            elif isinstance(leaf, FromAttribute) and leaf.key in self.attributes:
                found.append(self.attributes[leaf.key])
        return found


def _is_met(condition: Condition, counts: Mapping[AttributeKey, Polynomial], sizes: Mapping[int, int]) -> bool:
    if is_branch(condition.origin):
        return always_same(condition.origin, counts, sizes)
    value = evaluate(condition.origin, counts)
    if condition.dim is None:
        return value is not None and not value.variables
    return value == count(condition.dim)


def _solved(condition: Condition, counts: Mapping[AttributeKey, Polynomial]) -> tuple[AttributeKey, Polynomial] | None:
    """An attribute, and the value of it that meets the condition."""
    if is_branch(condition.origin):
        equal = were_equal(condition.origin, bool(condition.number))
        return solve_equality(condition.origin, counts) if equal else None
    return None if condition.dim is None else solve(condition.origin, count(condition.dim), counts)


def _urgency(condition: Condition) -> int:
    """Equal sizes first: what is computed from them often holds then; what was found out by comparing, last."""
    return 2 if is_branch(condition.origin) else int(isinstance(condition.origin, Operation))


def _divides(origin: Origin) -> bool:
    """True for a number with a quotient in it: the width of a head, say, which is to stay what it is."""
    return isinstance(origin, Operation) and (origin.symbol == "//" or _divides(origin.left) or _divides(origin.right))
