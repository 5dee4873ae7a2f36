"""Is a fine-tune needed? The validation accuracy against the dense network's, read only as far as the answer needs.

The sequential test bets against both hypotheses at once. Let d be what one example loses: 1 where the dense network was
right and the pruned one is wrong, -1 the other way round, 0 else; its mean is the drop in accuracy. If the mean is at
least t, the wealth of a player who stakes the share s of it on every example, prod(1 + s (t - d)), does not grow on
average, and by Ville's inequality it ever reaches 1 / alpha with a probability of at most alpha. So once it does, the
drop is smaller than t at the confidence 1 - alpha, however often one looked. The other direction is its mirror image.
Source: Estimating means of bounded random variables by betting (Waudby-Smith and Ramdas, JRSS B 2024); the average over
a few stakes stands in for a clever one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from icycle.errors import DataError
from icycle.methods._training import CorrectPerBatch

__all__ = [
    "AlwaysFineTune",
    "Decision",
    "ExactTrigger",
    "NeverFineTune",
    "SequentialTrigger",
    "Trigger",
    "require_size",
    "size_needed",
]

Evaluate = Callable[[torch.nn.Module], float]  # accuracy in percent

_STAKES = np.arange(1, 21) / 20  # shares of the largest stake that cannot ruin the player


@dataclass(frozen=True)
class Decision:
    """Whether to fine-tune, and on what evidence: accuracy and drop (percent) over the `share` (0..1) that was read."""

    fire: bool
    accuracy: float | None
    drop: float | None
    share: float
    examples: int = 0
    confident: bool = True  # False: the split ended before the test did, and its own average decided


class Trigger(Protocol):
    def __call__(self, model: torch.nn.Module) -> Decision: ...


class AlwaysFineTune:
    """Fine-tunes after every step, and reads nothing."""

    def __call__(self, model: torch.nn.Module) -> Decision:
        return Decision(fire=True, accuracy=None, drop=None, share=0.0)


class NeverFineTune:
    """Leaves all recovery to the end, and reads nothing."""

    def __call__(self, model: torch.nn.Module) -> Decision:
        return Decision(fire=False, accuracy=None, drop=None, share=0.0)


class ExactTrigger:
    """Evaluates the whole split; fires where at least `threshold` points are lost against `dense` (percent)."""

    def __init__(self, evaluate: Evaluate, dense: float, threshold: float, examples: int = 0) -> None:
        self._evaluate = evaluate
        self._dense = dense
        self._threshold = threshold
        self._examples = examples

    def __call__(self, model: torch.nn.Module) -> Decision:
        accuracy = self._evaluate(model)
        drop = self._dense - accuracy
        return Decision(drop >= self._threshold, accuracy, drop, share=1.0, examples=self._examples)


class SequentialTrigger:
    """Reads the split batch by batch until the test is sure at `confidence`, or the split ends.

    Args:
        dense: the dense network, read whole once.
        correct: gives the same examples in the same order each time, an order that has nothing to do with the answers.
        threshold: the drop that fires, in percentage points, 0 < threshold < 100.
        confidence: 0 < confidence < 1; in each direction the decision is wrong with a probability of at most one minus
            this. Where the split ends first, its average decides, as an exact evaluation would.

    Raises:
        DataError: the split is too small ever to be sure; names the size it needs.
    """

    def __init__(self, dense: torch.nn.Module, correct: CorrectPerBatch, threshold: float, confidence: float) -> None:
        self._correct = correct
        self._threshold = threshold / 100
        self._alpha = 1 - confidence
        with closing(correct(dense)) as batches:
            self._dense = torch.cat([batch.cpu() for batch in batches] or [torch.empty(0, dtype=torch.bool)])
        require_size(len(self._dense), threshold, confidence)

    @property
    def dense_accuracy(self) -> float:
        """Percent, over the whole split."""
        return 100.0 * float(self._dense.float().mean())

    def __call__(self, model: torch.nn.Module) -> Decision:
        test = _Bets(self._threshold)
        right_now = 0
        with closing(self._correct(model)) as batches:
            for right in batches:
                before = self._dense[test.examples : test.examples + len(right)].int()
                if len(before) != len(right):
                    raise DataError(
                        f"Expected the {len(self._dense)} validation examples that the dense network was measured on, "
                        "but got more; the loader must give the same examples in the same order each time"
                    )
                test.add(before - right.cpu().int())
                right_now += int(right.sum())
                if test.wealth_kept >= 1 / self._alpha or test.wealth_lost >= 1 / self._alpha:
                    return self._decision(test.wealth_lost > test.wealth_kept, test, right_now, confident=True)
        return self._decision(test.mean >= self._threshold, test, right_now, confident=False)

    def _decision(self, fire: bool, test: _Bets, right_now: int, confident: bool) -> Decision:
        share = test.examples / len(self._dense)
        return Decision(fire, 100 * right_now / test.examples, 100 * test.mean, share, test.examples, confident)


class _Bets:
    """The wealth of two players, one betting that less than `threshold` (0..1) is lost on average, one that more is."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._log_kept = np.zeros(len(_STAKES))
        self._log_lost = np.zeros(len(_STAKES))
        self.examples = 0
        self._sum = 0

    def add(self, lost: torch.Tensor) -> None:
        """Take in d (batch,) of a batch of examples: -1, 0 or 1 each."""
        for value in (-1, 0, 1):
            count = int((lost == value).sum())
            if count:
                self._log_kept += count * _log_growth(self._threshold - value, 1 - self._threshold)
                self._log_lost += count * _log_growth(value - self._threshold, 1 + self._threshold)
        self.examples += len(lost)
        self._sum += int(lost.sum())

    @property
    def mean(self) -> float:
        return self._sum / self.examples

    @property
    def wealth_kept(self) -> float:
        return _mean_of_exp(self._log_kept)

    @property
    def wealth_lost(self) -> float:
        return _mean_of_exp(self._log_lost)


def _log_growth(gain: float, worst: float) -> np.ndarray:
    """(stakes,): the log of what one example with this gain makes of one unit, the largest loss being `worst`."""
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(1 + _STAKES / worst * gain, 0.0) + 1e-300)


def _mean_of_exp(logs: np.ndarray) -> float:
    top = logs.max()
    return math.inf if top > 700 else float(np.exp(logs).mean())


def size_needed(threshold: float, confidence: float) -> int:
    """The examples after which the test is sure in the clearest case: not a single answer has changed.

    `threshold` in percentage points.
    """
    logs = _log_growth(threshold / 100, 1 - threshold / 100)
    low, high = 0, 1
    while _mean_of_exp(high * logs) < 1 / (1 - confidence):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _mean_of_exp(middle * logs) < 1 / (1 - confidence) else (low, middle)
    return high


def require_size(examples: int, threshold: float, confidence: float) -> None:
    """Check that a split of so many examples lets the test be sure at all.

    Raises:
        DataError: it does not; names the size needed.
    """
    needed = size_needed(threshold, confidence)
    if examples < needed:
        raise DataError(
            f"Expected at least {needed} validation examples to tell a drop of {threshold:g} points from none at a "
            f"confidence of {confidence:g}, but got {examples}; give more (data.validation, data.subset), raise "
            "threshold, lower confidence, or evaluate exactly (confidence: null)"
        )
