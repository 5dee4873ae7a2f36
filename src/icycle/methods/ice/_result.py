"""What became of a model under ICE, and of every step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from icycle.methods.ice._freeze import Frozen
from icycle.methods.ice._trigger import Decision
from icycle.structure import Structure

__all__ = ["IceResult", "IceStep"]


@dataclass(frozen=True)
class IceStep:
    """One step, or several together: what was left, what was decided, and what was done. `weights` is the share of them
    that remains."""

    number: int  # of the steps that are done by then, of those that were planned
    kept: dict[str, int]  # group -> channels, of those that lost some
    macs: int
    weights: float
    decision: Decision
    fine_tuned: float  # epochs
    learning_rate: float | None
    seconds: dict[str, float] = field(default_factory=dict, compare=False)  # stage -> what the step spent on it


@dataclass
class IceResult:
    """What became of the model, which was pruned in place, and how. Accuracies are percent, on validation data."""

    model: torch.nn.Module = field(repr=False)
    structure: Structure = field(repr=False)  # of the pruned model
    macs_before: int
    params_before: int
    dense_accuracy: float = 0.0
    accuracy: float = 0.0
    accuracy_removed: float | None = None  # right after the last removal, where a step's fine-tune follows it
    accuracy_before_final: float | None = None  # where there is a final fine-tune
    ended: str | None = None  # why the final fine-tune did, in words
    steps: list[IceStep] = field(default_factory=list, repr=False)
    fine_tunes: int = 0  # after steps; the final one and a probe do not count
    epochs: float = 0.0  # trained, all together
    epoch_equivalents: float = 0.0  # the same, less what frozen layers save: whole passes, forward and backward
    examples_read: int = 0  # by the trigger
    frozen: Frozen | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def steps_done(self) -> int:
        """Of the steps that were planned; several of them may have been taken together."""
        return self.steps[-1].number if self.steps else 0

    @property
    def share_read(self) -> float:
        """The mean share of the validation split that a decision read, 0..1."""
        shares = [step.decision.share for step in self.steps]
        return sum(shares) / len(shares) if shares else 0.0
