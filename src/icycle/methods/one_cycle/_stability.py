"""When has the search settled? Sub-networks a stated share of the run apart, compared."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from icycle.structure import SubNetwork

__all__ = ["Stability"]

_ROUNDING = 1e-9  # of sums of fractions


class Stability:
    """The running mean, over `window` of the run, of J: the similarity to the sub-network found `lag` earlier.

    Both are fractions of the run, not numbers of searches: the weights must really have moved in between.
    """

    def __init__(self, lag: float, window: float, rise: float = 0.0) -> None:
        self.lag = lag
        self.window = window
        self.rise = rise  # by which a new best exceeds the old one
        self.searches: deque[tuple[float, SubNetwork]] = deque()  # (progress, found), back to `lag` ago
        self.similarities: deque[tuple[float, float]] = deque()  # (progress, J), back to `window` ago
        self.since: float | None = None  # the progress of the first J
        self.best: tuple[float, float] | None = None  # (progress, indicator) of the last new best over a whole window

    def add(self, progress: float, subnet: SubNetwork) -> None:
        """Take in the sub-network found at `progress` (0..1, growing)."""
        lag_ago, window_ago = progress - self.lag + _ROUNDING, progress - self.window + _ROUNDING
        while len(self.searches) > 1 and self.searches[1][0] <= lag_ago:
            self.searches.popleft()
        while self.similarities and self.similarities[0][0] <= window_ago:
            self.similarities.popleft()
        if self.searches and self.searches[0][0] <= lag_ago:
            self.since = progress if self.since is None else self.since
            self.similarities.append((progress, subnet.similarity(self.searches[0][1])))
        self.searches.append((progress, subnet))
        now = self.indicator
        if now is not None and self._whole and (self.best is None or now > self.best[1] + self.rise):
            self.best = (progress, now)

    def restore(
        self,
        searches: Iterable[tuple[float, SubNetwork]],
        similarities: Iterable[tuple[float, float]],
        since: float | None,
        best: tuple[float, float] | None,
    ) -> None:
        """Go on from the state of an interrupted run."""
        self.searches, self.similarities = deque(searches), deque(similarities)
        self.since, self.best = since, best

    @property
    def indicator(self) -> float | None:
        """Mean J over the window, 0..1; None before there is any."""
        if not self.similarities:
            return None
        return sum(similarity for _, similarity in self.similarities) / len(self.similarities)

    @property
    def _whole(self) -> bool:
        """True once the indicator speaks for a whole window."""
        return self.since is not None and self.searches[-1][0] - self.since >= self.window - _ROUNDING

    def reached(self, threshold: float) -> bool:
        """True once the indicator speaks for a whole window and is at least `threshold`."""
        return self.indicator is not None and self._whole and self.indicator >= threshold

    def stopped_rising(self, patience: float) -> bool:
        """True once there has been no new best for `patience` (a fraction of the run)."""
        return self.best is not None and self.searches[-1][0] - self.best[0] >= patience - _ROUNDING
