"""The proof in numbers: what a trial finds becomes inexact, or where the model does not run without it, pinned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from icycle.axes import Dim, mark_inexact, pin
from icycle.engine._choices import equal, few, unequal
from icycle.engine._halves import at_fault
from icycle.engine._locate import first_difference
from icycle.engine._marks import free_axes
from icycle.engine._trial import Doubt, Trial
from icycle.reasons import NOWHERE, Kind, Reason
from icycle.structure import Structure, SubNetwork, build, freeze
from icycle.tracing import Trace

__all__ = ["prove_in_numbers"]

Ask = Callable[[SubNetwork], Doubt | None]


def prove_in_numbers(model: nn.Module, examples: Sequence[Any], found: Trace, structure: Structure) -> Structure:
    """The structure of which no removal from an exact group is anything else than zeroing, on these examples.

    A small model, which costs nothing, is tried with three choices of channels, and with all examples; any other with
    the choice that the proof over shapes has not tried, and the first example. Raises NoNumbersError."""
    while structure.prunable:  # every pass but the last marks a group
        trials = [Trial(model, structure, example) for example in examples]
        tried = trials if trials[0].small else trials[:1]
        if not any(_Numbers(trial, found, structure).correct() for trial in tried):
            break
        found.settle()
        structure = build(found)
    return structure


class _Numbers:
    """What trials say of one structure, and what follows from it."""

    def __init__(self, trial: Trial, found: Trace, structure: Structure) -> None:
        self._trial, self._found, self._structure = trial, found, structure
        self._axes = free_axes(found, structure)

    def correct(self) -> bool:
        """Whether a trial failed, and the groups at fault were marked."""
        exact = [group.name for group in self._structure.prunable if group.exact]
        choices = (equal, unequal, few) if self._trial.small else (equal,)
        for subnet in (choose(self._structure) for choose in choices):
            if exact and self._marked(exact, subnet, self._trial.doubt, self._trial.judge):
                return True
            if self._trial.small or not self._found.meta:  # else the proof over shapes says that it runs
                if self._marked(list(self._axes), subnet, self._trial.breaks, self._trial.breaks):
                    return True
        return False

    def _marked(self, names: Sequence[str], subnet: SubNetwork, ask: Ask, ask_again: Ask) -> bool:
        doubt = ask(subnet.within(names))
        if doubt is None:
            return False
        guilty = at_fault(names, lambda some: ask_again(subnet.within(some)) is not None)
        for name in guilty:
            alone = ask_again(subnet.within([name]))
            self._mark(name, alone or doubt, subnet.within([name] if alone else guilty))
        return True

    def _mark(self, name: str, doubt: Doubt, subnet: SubNetwork) -> None:
        step = first_difference(self._trial, subnet, self._found.runs[0][1], self._kept(subnet))
        detail, place = (doubt.problem, NOWHERE) if step is None else (f"{doubt.problem}, first seen", step.place)
        if doubt.broken:
            pin(self._axes[name], Reason(Kind.BREAKS, detail, *place))
        else:
            mark_inexact(self._axes[name], Reason(Kind.NOT_ZEROING, detail, *place))

    def _kept(self, subnet: SubNetwork) -> Callable[[Dim], np.ndarray]:
        masks = subnet.masks(self._structure)
        numbers = {axis.created: number for number, axis in enumerate(self._axes.values())}
        return lambda dim: freeze(dim, numbers).kept(masks)
