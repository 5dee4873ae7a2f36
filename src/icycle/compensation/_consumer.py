"""A consumer of channels of which some go: what was seen of it, and the weight that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from icycle.compensation._moments import Moments
from icycle.compensation._vectors import reach, taps_of, vectors
from icycle.errors import DataError
from icycle.probing import Reading, damped

__all__ = ["Consumer", "Place", "Seen", "Weights"]

Weights = Mapping[str, torch.Tensor]  # parameters by name


@dataclass(frozen=True)
class Place:
    """The part of a parameter that reads one input: its rows along `row_dim`, contracted along `dim`. `taps` elements
    of the input's window belong to each channel; or so many neighbouring `elements` along `dim` do, and are refitted
    alike."""

    parameter: str
    dim: int
    row_dim: int
    rows: range
    taps: int
    elements: int

    @classmethod
    def of(cls, reading: Reading, kept: torch.Tensor, elements: int) -> Place:
        taps = taps_of(reading, int(kept.sum()))
        return cls(reading.parameter, reading.dim, reading.row_dim, reading.rows, taps, elements)

    def vectors(self, reading: Reading) -> torch.Tensor:
        """(count, n): what is read there."""
        return vectors(reading, self.taps, self.elements)

    def reach(self, reading: Reading) -> torch.Tensor:
        """(taps that are refitted alike,): the share of the output's positions to which each brings what is read."""
        return reach(reading, self.taps)


class Seen(NamedTuple):
    """Of what was read before: the target, (count, y or n), and what stays of it, (count, k)."""

    target: torch.Tensor
    kept: torch.Tensor


class Consumer:
    """The part of a weight at `place`, what was seen of its input, and of what was added to its output.

    It is refitted in place, among `parameters`; `before` is a copy of them as they were.

    What it put out, y = W x, stands for x where it has fewer elements; then W_k, what stays of W, for I_k.
    """

    def __init__(self, place: Place, parameters: Weights, before: Weights, kept: torch.Tensor) -> None:
        self._place = place
        self._parameters = parameters
        self._before = before
        self._kept = kept[:: place.elements].repeat_interleave(place.taps)
        old = self._as_matrix(self._part(before))  # (rows, ..., n)
        self._old = old.to(torch.promote_types(old.dtype, torch.float32))
        self._outputs = self._old.flatten(0, -2) if self._old[..., 0].numel() < len(self._kept) else None  # (y, n)
        targets = len(self._kept) if self._outputs is None else len(self._outputs)
        self._moments = Moments(targets, int(self._kept.sum()), kept.device)
        self._reaches: torch.Tensor | float = 0.0  # the sum of `reach` over the vectors
        self.biases: set[tuple[str, int] | None] = set()

    @property
    def _bias(self) -> tuple[str, int] | None:
        """The bias that is its own, and the place in it of the first row; None where there is none, or not always the
        same."""
        return next(iter(self.biases)) if len(self.biases) == 1 else None

    def seen(self, reading: Reading) -> Seen:
        """What `refit` needs of what was read before: x, or y = W x, and those of x that stay."""
        x = self._place.vectors(reading)
        return Seen(x if self._outputs is None else x @ self._outputs.T, x[:, self._kept])

    def refit(self, before: Seen, reading: Reading, damping: float | None) -> None:
        """To all that was seen, with what is read now, and what was read there before."""
        z = self._place.vectors(reading)[:, self._kept]
        self._moments.update(before.target, z if _belong(before.kept, z) else before.kept)
        self._reaches = self._reaches + len(z) * self._place.reach(reading)
        regression = self._regression(damping)
        new = self._put_out(regression)
        weight = new.new_zeros(self._old.shape)
        weight[..., self._kept] = new
        part = self._part(self._parameters)
        part.copy_(self._as_weight(weight, part))
        if self._bias is not None:
            name, start = self._bias
            own, was = (each[name].narrow(0, start, len(new)) for each in (self._parameters, self._before))
            own.copy_(was + self._lost(regression))

    def _lost(self, regression: torch.Tensor) -> torch.Tensor:
        """(rows,): what is missing of the output's mean: of each of the window's elements what it misses, as often as
        it reaches a position."""
        mean, mean_z = self._moments.means()
        lost = self._put_out(mean - regression @ mean_z)
        return lost.reshape(len(self._old), len(self._reach), -1).sum(dim=2) @ self._reach

    @property
    def _reach(self) -> torch.Tensor:
        """(taps that are refitted alike,): the mean of `reach` over the vectors."""
        return torch.as_tensor(self._reaches) / self._moments.count

    def _put_out(self, target: torch.Tensor) -> torch.Tensor:
        """(rows, ..., k): what the weight makes of targets (n, k), or those of its outputs in their shape."""
        old = self._old.double()
        return old @ target if self._outputs is None else target.reshape(*old.shape[:-1], *target.shape[1:])

    def _regression(self, damping: float | None) -> torch.Tensor:
        """(E[x z^T] + lambda I_k) (E[z z^T] + lambda I)^-1, where I_k picks what stays, with y for x where that is the
        target: how it follows from what is read now."""
        # one constant for all positions can stand in for means only where all of them are reached alike
        constant = self._bias is not None and bool((self._reach == 1).all())
        cross, own = self._moments.covariance() if constant else self._moments.second()
        if not (cross.isfinite().all() and own.isfinite().all()):
            raise DataError(
                f"Expected finite activations in front of {self._place.parameter}, but there are others on these "
                "batches. The model is as it was; look for what makes them so, or leave compensation out."
            )
        own, ridge = damped(own, self._moments.count, damping)
        return torch.cholesky_solve((cross + ridge * self._unchanged()).T, torch.linalg.cholesky(own)).T

    def _unchanged(self) -> torch.Tensor:
        """(n or y, k): the regression by which the weights that stay are what they were."""
        if self._outputs is not None:
            return self._outputs[:, self._kept].double()
        return torch.eye(len(self._kept), dtype=torch.float64, device=self._kept.device)[:, self._kept]

    def _part(self, weights: Weights) -> torch.Tensor:
        rows = self._place.rows
        return weights[self._place.parameter].narrow(self._place.row_dim, rows.start, len(rows))

    def _as_matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """(rows, ..., n): rows first, and last what is contracted, the window's elements with their channel."""
        if self._place.taps > 1:
            return weight.flatten(1)
        matrix = weight.movedim((self._place.row_dim, self._place.dim), (0, -1))
        return matrix.unflatten(-1, (-1, self._place.elements)).movedim(-1, -2)

    def _as_weight(self, matrix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The inverse of `_as_matrix`."""
        if self._place.taps > 1:
            return matrix.reshape(weight.shape)
        matrix = matrix.movedim(-1, -2).flatten(-2)
        return matrix.movedim((0, -1), (self._place.row_dim, self._place.dim))


def _belong(x: torch.Tensor, z: torch.Tensor) -> bool:
    """Is z (count, k) at the same positions as x, and nearer to it than its mean is? Not where a network sends other
    positions here by now (a router of experts), and then nothing can be learnt from how the two go together."""
    return x.shape == z.shape and bool((x - z).square().sum() <= (x - x.mean(dim=0)).square().sum())
