"""What cannot be made up for: a criterion that knows that the consumers will be refitted (see `icycle.compensate`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from icycle.errors import CriterionError
from icycle.probing import Reading, channel_elements, damped, forward, in_eval_mode, watching
from icycle.saliency._data import first_batches
from icycle.saliency._registry import Scores, criterion
from icycle.saliency._slices import Place, consumers, place
from icycle.structure import Group, Structure
from icycle.tracing import undisturbed

__all__ = ["reconstruction"]

_TOGETHER = 32  # channels that go before the matrices are told

Part = tuple[str, int, int]  # a place, and the first row of the weight that takes part


@criterion("reconstruction")
@torch.no_grad()
def reconstruction(
    model: torch.nn.Module, structure: Structure, *, loader: Iterable[Any] | None = None, batches: int = 8
) -> Scores:
    """The share of what its consumers put out that is lost once a channel goes, and they are refitted to the others.

    Of each group the channels go one after the other, always the one whose loss on top is least, when all that went
    before has been made up for as well as can be; the score is the loss by then, 0..1, in the mean over the consumers.
    Both the loss and what is put out are those of activations with a little white noise on each channel, which is what
    the damping of `icycle.compensate` comes to. So two channels that say the same do not both score low, and scores of
    different groups can be compared. One pass gathers the moments of what is read, position by position; the rest takes
    some n^3 operations for n channels. Where a weight reads many elements of each channel (a linear layer behind a
    flattening), and more than 4,096 in all, they count as so many positions.
    Groups that no weight is seen to read score +inf.

    Raises:
        CriterionError: `loader` is None or empty, no group can be seen, or weights or activations are not finite.

    Source: backward elimination by the formula of the Optimal Brain Surgeon (Hassibi and Stork, 1993), with second
    moments of activations in the place of the Hessian, as in layer-wise least squares (He and others, ICCV 2017).
    """
    moments = _gather(model, channel_elements(structure), first_batches(loader, batches, "reconstruction"))
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
    little precision is lost where the two are subtracted. Of what is read, `taps` neighbours are so many x."""

    reading: Reading
    taps: int
    shift: torch.Tensor
    count: int
    total: torch.Tensor
    products: torch.Tensor

    @classmethod
    def of(cls, reading: Reading, taps: int, x: torch.Tensor) -> _Moments:
        """Still empty; `x` (positions, n) are the first to come."""
        zero = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        return cls(reading, taps, x.mean(dim=0), 0, zero, torch.outer(zero, zero))

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


def _gather(model: torch.nn.Module, elements: Mapping[Place, int], data: Iterable[Any]) -> dict[Place, list[_Moments]]:
    """The moments of what is read at these places."""
    found: dict[Part, _Moments] = {}

    def observe(reading: Reading) -> None:
        here = reading.parameter, reading.dim
        if here not in elements:
            return
        x = reading.inputs.detach().movedim(1, -1).flatten(0, -2).float()
        x = x.unflatten(1, (-1, elements[here])).movedim(2, 1).flatten(0, 1)
        key = (*here, reading.rows.start)
        if key not in found:
            found[key] = _Moments.of(reading, elements[here], x)
        found[key].update(x)

    with in_eval_mode(model), watching(model, observe, computed=True):
        for batch in data:
            with undisturbed(model):
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
    readers = [reader for reader in readers if reader.speaks]
    if not readers:
        return torch.full((group.size,), torch.inf)
    losses, lost = torch.empty(group.size, dtype=torch.float64), 0.0
    left = torch.arange(group.size)
    while len(left):
        stays = torch.ones(len(left), dtype=torch.bool)
        for _ in range(min(_TOGETHER, len(left))):
            on_top = torch.stack([reader.on_top() for reader in readers]).mean(dim=0)
            least = int(on_top.where(stays, torch.inf).argmin())
            lost += max(float(on_top[least]), 0.0)
            losses[left[least]] = lost
            stays[least] = False
            for reader in readers:
                reader.remove(least)
        for reader in readers:
            reader.settle(stays)
        left = left[stays]
    return losses.float()


class _Reader:
    """A consumer that is refitted each time that a channel goes.

    Of its weight W and what it reads, x, it has the Gram matrix G = W^T W and the inverse P of the covariance of x, for
    the elements of the channels that are left; and of both what each channel has for itself, (channels, e, e), which is
    all that a loss needs. When channel c goes, with S = P_:c P_cc^-1, the others take over,

        P' = P - S P_cc S^T,  G' = G - H S^T - S H^T,  H = G_:c - S G_cc / 2,

    which the matrices themselves are told of by `settle`, of many channels at a time: one product of matrices does in
    the time of a few what else takes each of them a pass through the memory.
    """

    def __init__(self, weight: torch.Tensor, moments: _Moments, index: torch.Tensor) -> None:
        reading = moments.reading
        rows = weight.narrow(reading.row_dim, reading.rows.start, len(reading.rows))
        matrix = rows.movedim(reading.dim, -1).flatten(0, -2).double()
        matrix = matrix.unflatten(1, (-1, moments.taps)).movedim(2, 1).flatten(0, 1)
        index = index[:, :: moments.taps] // moments.taps
        covariance = moments.covariance()
        if not (covariance.isfinite().all() and matrix.isfinite().all()):
            raise CriterionError(
                f"Expected finite weights and activations at {reading.parameter!r}, but there are others; choose a "
                "criterion that reads weights alone, or look for what makes them so."
            )
        self.speaks = bool((matrix @ covariance * matrix).sum() > 0)  # else there is nothing to lose
        covariance, _ = damped(covariance, moments.count)  # as compensation does
        energy = float((matrix @ covariance * matrix).sum())
        own = index.to(matrix.device).flatten()
        self._elements = index.shape[1]
        self._inverse = torch.linalg.inv(covariance)[own[:, None], own]
        self._gram = matrix[:, own].T @ matrix[:, own] / (energy or 1.0)
        self._begin()

    def _begin(self) -> None:
        """Of the matrices as they are, nothing is pending."""
        count, size = len(self._inverse) // self._elements, self._elements
        blocks = (count, size, count, size)
        self._own_inverse, self._own_gram = (
            matrix.view(blocks).diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()
            for matrix in (self._inverse, self._gram)
        )
        shape = (len(self._inverse), min(count, _TOGETHER) * size)
        self._columns, self._shares, self._halves = (self._inverse.new_empty(shape) for _ in range(3))
        self._pending = 0  # columns of these

    def on_top(self) -> torch.Tensor:
        """(channels,) on the CPU: what would be lost with each of them, as a share of all that is put out."""
        if self._elements == 1:  # thousands of equations in one unknown are divisions
            return (self._own_gram / self._own_inverse).flatten().cpu()
        own = torch.linalg.solve(self._own_inverse, self._own_gram)
        return own.diagonal(dim1=1, dim2=2).sum(dim=1).cpu()

    def remove(self, channel: int) -> None:
        """The others take over from the channel at this place among those that were left at the last `settle`."""
        size = self._elements
        here, new = slice(channel * size, (channel + 1) * size), slice(self._pending, self._pending + size)
        columns, shares, halves = (each[:, : new.start] for each in (self._columns, self._shares, self._halves))
        column = self._inverse[:, here] - columns @ shares[here].T
        gram = self._gram[:, here] - halves @ shares[here].T - shares @ halves[here].T
        share = torch.linalg.solve(column[here], column.T).T
        half = gram - share @ gram[here] / 2
        self._columns[:, new], self._shares[:, new], self._halves[:, new] = column, share, half
        self._pending = new.stop
        p, s, h = (each.reshape(-1, size, size) for each in (column, share, half))
        self._own_inverse -= p @ s.mT
        self._own_gram -= h @ s.mT + s @ h.mT
        self._own_inverse[channel] = torch.eye(size)  # nothing is left of it, and nothing can be divided by that

    def settle(self, stays: torch.Tensor) -> None:
        """Forget the channels that do not stay, (channels,) bool; the others are numbered anew."""
        own = stays.repeat_interleave(self._elements).to(self._inverse.device).nonzero().flatten()
        columns, shares, halves = (each[own, : self._pending] for each in (self._columns, self._shares, self._halves))
        crossed = halves @ shares.T
        self._inverse = self._inverse[own[:, None], own] - columns @ shares.T
        self._gram = self._gram[own[:, None], own] - crossed - crossed.T
        self._begin()
