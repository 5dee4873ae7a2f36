"""The exponential moving average of a network's weights, which is what is evaluated and kept.

Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; by torch's `AveragedModel`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from icycle.tracing import named_tensors

__all__ = ["Average"]

_NETWORK = "network."


class Average:
    """An average of `model`, whose weights count exp(-1) as much after 1 / (1 - `decay`) steps; begun at its first
    update, and part of a run's checkpoints.

    The first steps are averaged over a shorter time, or the average would long remember the fresh weights: the decay of
    step t is at most (1 + t) / (10 + t).
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        # The wrapper outlives its copy: whoever prunes the model holds it, and prunes the copy of that moment.
        self.wrapper = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)

    @property
    def network(self) -> torch.nn.Module:
        """The averaged network."""
        return self.wrapper.module

    @property
    def begun(self) -> bool:
        return bool(self.wrapper.n_averaged > 0)

    def update(self) -> None:
        """Call after each step of the optimizer."""
        if not self.begun:
            self._copy_model()
        self.wrapper.update_parameters(self._model)

    @torch.no_grad()
    def hand_over(self) -> None:
        """Give the model the averaged weights; what follows is averaged anew."""
        if self.begun:
            for (_, own), (_, averaged) in zip(named_tensors(self._model), named_tensors(self.network), strict=True):
                if not torch.equal(own, averaged):  # what is frozen is left untouched
                    own.copy_(averaged)
            self.wrapper.n_averaged.zero_()

    def state_dict(self) -> dict[str, Any]:
        """How many steps it has seen, and the averaged network's tensors."""
        kept = self.network.state_dict() if self.begun else {}
        return {
            "steps": int(self.wrapper.n_averaged),
            **{_NETWORK + name: value for name, value in kept.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the model must have come back before."""
        self._copy_model()
        self.wrapper.n_averaged.fill_(state["steps"])
        if self.begun:
            self.network.load_state_dict(
                {key[len(_NETWORK) :]: value for key, value in state.items() if key.startswith(_NETWORK)}
            )

    def _copy_model(self) -> None:
        self.wrapper.module = copy.deepcopy(self._model)

    @torch.no_grad()
    def _mix(self, averaged: Sequence[torch.Tensor], now: Sequence[torch.Tensor], steps: torch.Tensor | int) -> None:
        """Tensors of one type: numbers are averaged; counts and indices are taken as they are."""
        if averaged[0].is_floating_point() or averaged[0].is_complex():
            decay = min(self._decay, (1 + int(steps)) / (10 + int(steps)))
            torch._foreach_lerp_(list(averaged), list(now), 1 - decay)
        else:
            torch._foreach_copy_(list(averaged), list(now))
