"""The artificial bee colony.

A food source is a number of channels kept for every group, and its nectar what a network of that shape is worth.

1. Every source has one employed bee. It changes a few of the source's shares, towards another source or away from it,
   and moves there if there is more nectar                                                        `_try_near`
2. Onlookers do the same at the sources that they choose by their nectar                          `_onlook`
3. A source at which nothing better was found for `patience` attempts is left: a scout finds another  `_scout`

Sources: "Channel Pruning via Automatic Structure Search" (ABCPruner), arXiv 2001.08565; Karaboga, "An idea based on
honey bee swarm for numerical optimization", 2005. Every source is scaled to the budget before it is tasted, every
group can change, and so can any count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["Colony", "Counts", "Field", "Source"]

Counts = tuple[int, ...]  # kept channels of every group


class Field(Protocol):
    """Where sources lie."""

    @property
    def sizes(self) -> Counts:
        """Channels of every group."""

    def scaled(self, shares: np.ndarray) -> Counts:
        """The counts within the budget whose ratios come closest to those of `shares` (groups,), each above 0."""

    def nectar(self, counts: Counts) -> float:
        """What a network of this shape is worth; higher is better."""


@dataclass
class Source:
    """A food source, and how often something better has been looked for near it in vain."""

    counts: Counts
    nectar: float
    failures: int = 0


class Colony:
    """Searches a field; the same for the same generator and the same nectar.

    Args:
        start: sources that are known; as many random ones are found beside them as make up `size`.
        size: sources, and so employed bees, and so onlookers; at least 2.
        changes: how many groups a bee changes at once.
        patience: failed attempts after which a source is left.
    """

    def __init__(
        self,
        field: Field,
        generator: np.random.Generator,
        *,
        start: Sequence[Counts] = (),
        size: int = 8,
        changes: int = 2,
        patience: int = 5,
    ) -> None:
        self._field = field
        self._random = generator
        self._changes = min(changes, len(field.sizes))
        self._patience = patience
        known = [self._tasted(counts) for counts in dict.fromkeys(start)]
        self.sources = [*known, *(self._found() for _ in range(size - len(known)))]
        self.best = max(self.sources, key=lambda source: source.nectar)

    def cycle(self) -> None:
        """Send out every employed bee, as many onlookers, and a scout if a source is exhausted."""
        for number in range(len(self.sources)):
            self._try_near(number)
        self._onlook()
        self._scout()

    def _onlook(self) -> None:
        """Bees choose sources with probability 0.9 f + 0.1, f being 0 at the poorest and 1 at the richest.

        The paper divides by the richest; accuracies of one network are all but equal, and so were the choices.
        """
        placed, number = 0, 0
        while placed < len(self.sources):
            if self._random.random() < self._attraction(self.sources[number]):
                self._try_near(number)
                placed += 1
            number = (number + 1) % len(self.sources)

    def _attraction(self, source: Source) -> float:
        values = [other.nectar for other in self.sources]
        poorest, richest = min(values), max(values)
        return 1.0 if richest == poorest else 0.9 * (source.nectar - poorest) / (richest - poorest) + 0.1

    def _scout(self) -> None:
        """Of the sources that are exhausted, the most tried one gives way to another."""
        number = max(range(len(self.sources)), key=lambda number: self.sources[number].failures)
        if self.sources[number].failures >= self._patience:
            self.sources[number] = self._found()
            self._remember(self.sources[number])

    def _try_near(self, number: int) -> None:
        """v = x + U(-1, 1) (x - y) in a few groups, y being another source; the better of v and x stays."""
        source = self.sources[number]
        own = self._shares(source)
        other = self._shares(self.sources[self._another(number)])
        groups = self._random.choice(len(own), self._changes, replace=False)
        near = own.copy()
        near[groups] += self._random.uniform(-1, 1, self._changes) * (own - other)[groups]
        found = self._tasted(self._field.scaled(near))
        if found.nectar > source.nectar:
            self.sources[number] = found
            self._remember(found)
        else:
            source.failures += 1

    def _another(self, number: int) -> int:
        other = int(self._random.integers(len(self.sources) - 1))
        return other + (other >= number)

    def _shares(self, source: Source) -> np.ndarray:
        return np.array(source.counts) / np.array(self._field.sizes)

    def _found(self) -> Source:
        """Anywhere in the field."""
        return self._tasted(self._field.scaled(1 - self._random.random(len(self._field.sizes))))

    def _tasted(self, counts: Counts) -> Source:
        return Source(counts, self._field.nectar(counts))

    def _remember(self, source: Source) -> None:
        if source.nectar > self.best.nectar:
            self.best = source
