"""What cannot be made up for: a criterion that knows that the consumers will be refitted (see `icycle.compensate`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from icycle.errors import CriterionError
from icycle.probing import Reading, forward, in_eval_mode, watching
from icycle.saliency._data import first_batches
from icycle.saliency._registry import Scores, criterion
from icycle.saliency._slices import Place, consumers, place
from icycle.structure import Group, Structure

__all__ = ["reconstruction"]

_DAMPING = 1e-3  # as in compensation: of the mean variance of what is read

Part = tuple[str, int, int]  # a place, and the first row of the weight that takes part


@criterion("reconstruction")
@torch.no_grad()
def reconstruction(
    model: torch.nn.Module, structure: Structure, *, loader: Iterable[Any] | None = None, batches: int = 8
) -> Scores:
    """The share of what its consumers put out that is lost once a channel goes, and they are refitted to the others.

    Of each group the channels go one after the other, always the one whose loss on top is least, when all that went
    before has been made up for as well as can be; the score is the loss by then, 0..1, in the mean over the consumers.
    So two channels that say the same do not both score low, and scores of different groups can be compared. One pass
    gathers the moments of what is read, position by position; the rest takes some n^3 operations for n channels.
    Groups that no weight is seen to read score +inf.

    Raises:
        CriterionError: `loader` is None or empty, or no group can be seen.

    Source: backward elimination by the formula of the Optimal Brain Surgeon (Hassibi and Stork, 1993), with second
    moments of activations in the place of the Hessian, as in layer-wise least squares (He and others, ICCV 2017).
    """
    wanted = {place(piece) for group in structure.prunable for piece in consumers(group)}
    moments = _gather(model, wanted, first_batches(loader, batches, "reconstruction"))
    parameters = dict(model.named_parameters())
    scores = {group.name: _losses(group, parameters, moments) for group in structure.prunable}
    if scores and all(bool(values.isinf().all()) for values in scores.values()):
        raise CriterionError(
            f"Expected at least one of {len(scores)} prunable groups to be read by a weight that can be seen, but none "
            "is; choose another criterion, such as 'group_norm'."
        )
    return scores


@dataclass
class _Moments:
    """Sums over what a part of a weight reads, x (n,): of x and x x^T, around a `shift` close to the mean, so that
    little precision is lost where the two are subtracted."""

    reading: Reading
    shift: torch.Tensor
    count: int
    total: torch.Tensor
    products: torch.Tensor

    @classmethod
    def of(cls, reading: Reading, x: torch.Tensor) -> _Moments:
        """Still empty; `x` (positions, n) are the first to come."""
        zero = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        return cls(reading, x.mean(dim=0), 0, zero, torch.outer(zero, zero))

    def update(self, x: torch.Tensor) -> None:
        """Take in x (positions, n)."""
        x = x - self.shift
        self.count += len(x)
        self.total += x.sum(dim=0, dtype=torch.float64)
        self.products += (x.T @ x).double()

    def covariance(self) -> torch.Tensor:
        """(n, n); what is constant is made up for by a bias, or by the norm that follows."""
        mean = self.total / self.count
        return self.products / self.count - torch.outer(mean, mean)


def _gather(model: torch.nn.Module, wanted: set[Place], data: Iterable[Any]) -> dict[Place, list[_Moments]]:
    found: dict[Part, _Moments] = {}

    def observe(reading: Reading) -> None:
        if (reading.parameter, reading.dim) not in wanted:
            return
        x = reading.inputs.detach().movedim(1, -1).flatten(0, -2).float()
        key = (reading.parameter, reading.dim, reading.rows.start)
        if key not in found:
            found[key] = _Moments.of(reading, x)
        found[key].update(x)

    with in_eval_mode(model), watching(model, observe, computed=True):
        for batch in data:
            forward(model, batch)
    parts: dict[Place, list[_Moments]] = defaultdict(list)
    for (parameter, dim, _), moments in found.items():
        parts[parameter, dim].append(moments)
    return parts


def _losses(
    group: Group, parameters: dict[str, torch.nn.Parameter], moments: dict[Place, list[_Moments]]
) -> torch.Tensor:
    """(size,): the loss once each channel of the group is gone."""
    readers = [
        _Reader(parameters[piece.parameter], each, torch.from_numpy(piece.index))
        for piece in consumers(group)
        for each in moments.get(place(piece), ())
    ]
    readers = [reader for reader in readers if reader.energy > 0]
    if not readers:
        return torch.full((group.size,), torch.inf)
    losses, lost = torch.empty(group.size, dtype=torch.float64), 0.0
    left = torch.arange(group.size)
    while len(left):
        on_top = torch.stack([reader.on_top(left) for reader in readers]).mean(dim=0)
        least = int(on_top.argmin())
        channel = int(left[least])
        lost += max(float(on_top[least]), 0.0)
        losses[channel] = lost
        for reader in readers:
            reader.remove(channel)
        left = left[left != channel]
    return losses.float()


class _Reader:
    """A consumer that is refitted each time that a channel goes.

    Of its weight W and what it reads, x, it keeps the Gram matrix W^T W and the inverse of the covariance of x.
    """

    def __init__(self, weight: torch.Tensor, moments: _Moments, index: torch.Tensor) -> None:
        reading = moments.reading
        rows = weight.narrow(reading.row_dim, reading.rows.start, len(reading.rows))
        matrix = rows.movedim(reading.dim, -1).flatten(0, -2).double()
        covariance = moments.covariance()
        if not (covariance.isfinite().all() and matrix.isfinite().all()):
            raise CriterionError(
                f"Expected finite weights and activations at {reading.parameter!r}, but there are others; choose a "
                "criterion that reads weights alone, or look for what makes them so."
            )
        self.energy = float((matrix @ covariance * matrix).sum())
        self._index = index.to(matrix.device)  # (channels, elements)
        self._gram = matrix.T @ matrix / (self.energy or 1.0)
        ridge = _DAMPING * covariance.diagonal().mean()
        # where all channels are silent there is nothing to lose, whatever the inverse is
        covariance.diagonal().add_(ridge if ridge > 0 else 1.0)
        self._inverse = torch.linalg.inv(covariance)

    def on_top(self, channels: torch.Tensor) -> torch.Tensor:
        """(channels,) on the CPU: what would be lost with each of them, as a share of all that is put out."""
        index = self._index[channels.to(self._index.device)]
        rows, columns = index[:, :, None], index[:, None, :]
        own = torch.linalg.solve(self._inverse[rows, columns], self._gram[rows, columns])
        return own.diagonal(dim1=1, dim2=2).sum(dim=1).cpu()

    def remove(self, channel: int) -> None:
        """The others take over: W' = W - W_c P_cc^-1 P_c, where P is the inverse covariance."""
        index = self._index[channel]
        shares = torch.linalg.solve(self._inverse[index[:, None], index], self._inverse[index])  # (elements, n)
        passed = self._gram[:, index] @ shares
        self._gram += shares.T @ self._gram[index[:, None], index] @ shares - passed - passed.T
        self._inverse -= self._inverse[:, index] @ shares
