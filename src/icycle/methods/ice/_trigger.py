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
from typing import Any, Protocol

import numpy as np
import torch

from icycle.errors import DataError
from icycle.methods._judged import CorrectPerBatch, Judged

__all__ = [
    "AlwaysFineTune",
    "Answers",
    "Decision",
    "ExactTrigger",
    "NeverFineTune",
    "SequentialTrigger",
    "Trigger",
    "require_size",
    "size_needed",
]

Evaluate = Callable[[torch.nn.Module], float]  # accuracy in percent

_RIGHT, _LABELS = "dense right", "dense labels"  # in a state

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
    ahead: float | None = None  # the drop (percent) that all the rest would have cost at once, where that was declined


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


@dataclass(frozen=True)
class Answers:
    """The dense network's on the validation split: which examples it is right on, bool `(examples,)`, and a hash of the
    labels of each batch."""

    right: torch.Tensor
    labels: tuple[str, ...]

    @staticmethod
    def of(model: torch.nn.Module, correct: CorrectPerBatch) -> Answers:
        """Reads the whole split."""
        with closing(correct(model)) as batches:
            read = list(batches)
        nothing = torch.empty(0, dtype=torch.bool)
        return Answers(torch.cat([nothing, *(batch.right.cpu() for batch in read)]), tuple(b.labels for b in read))

    def state_dict(self) -> dict[str, Any]:
        return {_RIGHT: self.right, _LABELS: list(self.labels)}

    @staticmethod
    def saved(state: dict[str, Any]) -> Answers | None:
        """Those in a state; None where it holds none."""
        return Answers(state[_RIGHT], tuple(state[_LABELS])) if _RIGHT in state else None


class SequentialTrigger:
    """Reads the split batch by batch until the test is sure at `confidence`, or the split ends.

    Args:
        dense: the dense network's answers.
        correct: gives the same examples in the same order each time, an order that has nothing to do with the answers.
        threshold: the drop that fires, in percentage points, 0 < threshold < 100.
        confidence: 0 < confidence < 1; in each direction the decision is wrong with a probability of at most one minus
            this. Where the split ends first, its average decides, as an exact evaluation would.

    Raises:
        DataError: the split is too small ever to be sure; names the size it needs. When called: the examples are others
            than those that the dense network was measured on, or come in another order.
    """

    def __init__(self, dense: Answers, correct: CorrectPerBatch, threshold: float, confidence: float) -> None:
        self.dense = dense
        self._correct = correct
        self._threshold = threshold / 100
        self._alpha = 1 - confidence
        require_size(len(dense.right), threshold, confidence)

    def __call__(self, model: torch.nn.Module) -> Decision:
        test = _Bets(self._threshold)
        right_now = 0
        with closing(self._correct(model)) as batches:
            for number, batch in enumerate(batches):
                self._require_same(number, batch)
                before = self.dense.right[test.examples : test.examples + len(batch.right)].int()
                test.add(before - batch.right.cpu().int())
                right_now += int(batch.right.sum())
                if test.wealth_kept >= 1 / self._alpha or test.wealth_lost >= 1 / self._alpha:
                    return self._decision(test.wealth_lost > test.wealth_kept, test, right_now, confident=True)
        if test.examples < len(self.dense.right):
            raise DataError(_other_examples(f"only {test.examples} of {len(self.dense.right)}"))
        return self._decision(test.mean >= self._threshold, test, right_now, confident=False)

    def _require_same(self, number: int, batch: Judged) -> None:
        """Is this batch the one that the dense network was measured on? Answers are compared example by example."""
        if number >= len(self.dense.labels):
            raise DataError(_other_examples(f"more than its {len(self.dense.right)}"))
        if batch.labels != self.dense.labels[number]:
            raise DataError(_other_examples(f"other labels in batch {number + 1}"))

    def _decision(self, fire: bool, test: _Bets, right_now: int, confident: bool) -> Decision:
        share = test.examples / len(self.dense.right)
        return Decision(fire, 100 * right_now / test.examples, 100 * test.mean, share, test.examples, confident)


def _other_examples(found: str) -> str:
    return (
        f"Expected the validation examples that the dense network was measured on, but got {found}; the loader must "
        "give the same examples in the same order each time (no shuffling, no sampling); or evaluate exactly "
        "(confidence: null)"
    )


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
