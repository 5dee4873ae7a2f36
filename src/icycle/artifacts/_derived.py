"""Whether a removal would have set the attributes in a folder: a fresh model is traced, and asked.

Every size of a smaller model is a polynomial in how many channels each group keeps. So the shapes of the saved tensors
and the attributes are equations in these counts: the folder tells the truth where they have a solution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from torch import nn

from icycle.axes import Polynomial
from icycle.errors import ArtifactError, IcycleError
from icycle.structure import Structure, build, count_of
from icycle.surgery import Place
from icycle.tracing import trace_model

__all__ = ["check_attributes"]

_MOST = 20_000  # assignments that are tried
_SMALLEST = 1


def check_attributes(
    model: nn.Module, inputs: Any, shapes: Mapping[str, Sequence[int]], changes: Mapping[Place, int], where: str
) -> None:
    """Raise ArtifactError unless some removal from the fresh `model` gives its tensors these shapes, and then sets the
    attributes in `changes` to these values and no others."""
    problem = ""
    for head_width in (False, True):
        try:
            structure = build(trace_model(model, inputs, head_width))
        except IcycleError as error:
            raise ArtifactError(
                f"Expected to trace the fresh {type(model).__name__}, to see which attributes follow a removal, but: "
                f"{error} Give icycle.load inputs with which it works (example_inputs=...)."
            ) from error
        problem = _problem(model, structure, shapes, changes)
        if not problem:
            return
    raise ArtifactError(
        f"Expected the attributes in {where} to be those that a removal sets, but {problem}. The folder was changed, "
        f"or the code of {type(model).__name__} is another: save the model again."
    )


def _problem(
    model: nn.Module, structure: Structure, shapes: Mapping[str, Sequence[int]], changes: Mapping[Place, int]
) -> str:
    known: dict[Place, Polynomial] = {(one.module, one.name, one.item): one.value for one in structure.attributes}
    for place in changes:
        if place not in known:
            return f"none sets {_told(place)}"
    equations = [
        _Equation(count_of(layout), int(size))
        for name, layouts in structure.layouts.items()
        for layout, size in zip(layouts, shapes[name], strict=True)
    ]
    equations += [_Equation(value, changes.get(place, _current(model, place))) for place, value in known.items()]
    sizes = {number: group.size for number, group in enumerate(structure.prunable)}
    if not _Search(sizes).solves(equations, {}):
        return f"no removal sets {', '.join(_told(place) for place in changes)} to {list(changes.values())}"
    return ""


def _told(place: Place) -> str:
    module, name, item = place
    return f"{module or 'the model'}.{name}{'' if item is None else f'[{item}]'}"


def _current(model: nn.Module, place: Place) -> int:
    path, name, item = place
    value = vars(model.get_submodule(path))[name]
    return int(value if item is None else value[item])


@dataclass(frozen=True)
class _Equation:
    """A polynomial in the kept counts, and the number that it has to be."""

    left: Polynomial
    right: int

    def given(self, counts: Mapping[int, int]) -> _Equation:
        """The equation for the counts that are not yet known."""
        terms: dict[tuple[int, ...], int] = {}
        for monomial, coefficient in self.left.terms.items():
            rest = tuple(number for number in monomial if number not in counts)
            factor = reduce(lambda value, number: value * counts.get(number, 1), monomial, coefficient)
            terms[rest] = terms.get(rest, 0) + factor
        return replace(self, left=Polynomial({monomial: c for monomial, c in terms.items() if c}))

    def value_of(self, number: int) -> int | None:
        """The only count that solves it for its one variable; None where that is not a whole number."""
        slope, rest = self.left.terms.get((number,), 0), self.right - self.left.terms.get((), 0)
        return rest // slope if slope and rest % slope == 0 else None


class _Search:
    """Looks for counts between 1 and the `sizes` of the groups: what follows from one equation first, then by trial."""

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self._sizes = sizes
        self._left = _MOST

    def solves(self, equations: Sequence[_Equation], counts: dict[int, int]) -> bool:
        """Whether the equations have a solution in which these counts are as given."""
        self._left -= 1
        if self._left < 0:
            return False
        open_ones = list({(each.right, tuple(sorted(each.left.terms.items()))): each for each in equations}.values())
        while True:
            open_ones = [each.given(counts) for each in open_ones]
            if any(not each.left.variables and each.left.terms.get((), 0) != each.right for each in open_ones):
                return False
            open_ones = [each for each in open_ones if each.left.variables]
            plain = next((each for each in open_ones if _is_plain(each.left)), None)
            if plain is None:
                break
            (number,) = plain.left.variables
            value = plain.value_of(number)
            if value is None or not _SMALLEST <= value <= self._sizes[number]:
                return False
            counts = {**counts, number: value}
        if not open_ones:
            return True
        number = min((n for each in open_ones for n in each.left.variables), key=self._sizes.__getitem__)
        return any(
            self.solves(open_ones, {**counts, number: value}) for value in range(self._sizes[number], _SMALLEST - 1, -1)
        )


def _is_plain(left: Polynomial) -> bool:
    """One variable, to the first power."""
    return len(left.variables) == 1 and all(len(monomial) <= 1 for monomial in left.terms)
