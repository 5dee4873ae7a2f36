"""Least squares in the place of fine-tuning: what is left of a consumer takes over the work of what goes.

A consumer computes W x. Once channels are gone it reads z in the place of x: fewer channels, which are no longer what
they were, either, as consumers before it were refitted already. The best that it can do is

    W' = argmin E ||W x - W' z||^2 + lambda ||W' - W_k||^2 = (W E[x z^T] + lambda W_k) (E[z z^T] + lambda I)^-1

over the data, W_k being what stays of W: where the data tell nothing, weights are what they were. So the consumers are
refitted in turn, in the order in which they run, and each makes up for what is missing of its own input and for what
those before it could not. Of a convolution x is all that its window sees; where that is too large, the channels at one
position, and each tap is refitted alike; so are the elements of a channel that a linear layer reads behind a
flattening, where there are many of them. Where the consumer adds a bias, it takes what the means differ by, of each tap
for the share of the output's positions that it reaches; where that is all of them, the moments are those about the
means.

One pass does it, in which the network sees every batch twice, with its weights as they were and as they are refitted:
when a batch comes to a consumer its moments are added to those of the batches before, and the consumer is refitted
before it computes.

Related: channel pruning by Lasso regression (He et al., ICCV 2017, equation 4, and "whole model" in 3.2: the target is
what the whole network puts out, the input what the pruned one does), ThiNet (Luo et al., ICCV 2017, equation 7).
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from icycle.compensation._consumer import Consumer, Place, Seen, Weights
from icycle.errors import DataError, SurgeryError
from icycle.probing import Reading, channel_elements, forward, in_eval_mode, watching
from icycle.structure import Structure, SubNetwork
from icycle.surgery import undoing
from icycle.tracing import undisturbed

__all__ = ["compensate"]

Axis = tuple[str, int]  # a parameter and one of its dimensions
Kept = Mapping[Axis, torch.Tensor]  # one that shrinks -> (elements,) bool


@torch.no_grad()
def compensate(
    model: nn.Module,
    structure: Structure,
    subnet: SubNetwork,
    batches: Iterable[Any],
    *,
    max_batches: int = 8,
    damping: float | None = None,
) -> nn.Module:
    """Refit, in place, what reads channels that `subnet` removes, and let it read them no longer; returns the model.

    To be called right before `icycle.prune(model, structure, subnet)`, with the structure of the model as it still is.
    Afterwards every consumer's weights are zero for the removed channels, and those for the kept channels are such that
    its output on the data is as close as can be to what it was, given what the refitted consumers before it put out.
    Weights that are computed from others (weight norm) or tied to an embedding's table, products of two activations and
    transposed convolutions in several groups are left as they are; copies of a weight in another precision, as autocast
    makes them, are not such.
    Batch-norm statistics do not fit the new activations quite: recalibrate them after the removal.

    Args:
        batches: of training data: tensors, (inputs..., targets) or mappings of keyword arguments.
        max_batches: as many of them are read; two forward passes each, in evaluation mode.
        damping: lambda as a share of the mean second moment of the kept channels, > 0 and finite: how far correlations
            in the data are distrusted. None: 0.001, or a tenth of k channels over the positions that are seen, where
            that is more.

    Raises:
        SubNetworkError: `subnet` is not of `structure`.
        SurgeryError: `structure` is not of the model as it is now (after the removal it is too late), a setting is out
            of range, or no weight of the model can be seen to read channels that could go.
        DataError: there are no batches, or activations on them are not finite. The model is as it was.
    """
    if (damping is not None and not 0 < damping < math.inf) or max_batches < 1:
        raise SurgeryError(
            f"Expected 0 < damping < inf and max_batches >= 1, but got {damping} and {max_batches}; leave them out for "
            "the defaults."
        )
    kept = _kept(model, structure, subnet)
    if not kept:
        return model
    before, batch = _weights_of(model), None
    refit = _RefitInTurn(model, before, kept, channel_elements(structure), damping)
    with undoing() as undo, in_eval_mode(model):
        undo.append(partial(_write, model, before))
        for batch in islice(batches, max_batches):
            refit.take_in(batch)
        if batch is None:
            raise DataError("Expected at least one batch to compensate on, but there was none.")
        refit.check()
    return model


def _weights_of(model: nn.Module) -> Weights:
    return {name: parameter.clone() for name, parameter in model.named_parameters()}


def _write(model: nn.Module, weights: Weights) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def _kept(model: nn.Module, structure: Structure, subnet: SubNetwork) -> Kept:
    masks = subnet.masks(structure)
    found = {}
    for name, parameter in model.named_parameters():
        layouts = structure.layouts.get(name, ())
        if tuple(layout.size for layout in layouts) != tuple(parameter.shape):
            raise SurgeryError(
                f"Expected {name} to have the shape {[layout.size for layout in layouts]} that it was traced with, but "
                f"it has {list(parameter.shape)}. Call icycle.compensate before icycle.prune, with the same structure."
            )
        for dim, layout in enumerate(layouts):
            mask = torch.from_numpy(layout.kept(masks)).to(parameter.device)
            if not mask.all():
                found[name, dim] = mask
    return found


class _RefitInTurn:
    """Refits the consumers of `model` to what they put out with the weights of `before`."""

    def __init__(
        self, model: nn.Module, before: Weights, kept: Kept, elements: Mapping[Axis, int], damping: float | None
    ) -> None:
        self._model = model
        self._parameters = dict(model.named_parameters())
        self._before = before
        self._kept = kept
        self._elements = elements
        self._damping = damping
        self._consumers: dict[Place, Consumer] = {}
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        # a projection that is tied to a table cannot be refitted: what it reads comes from that table
        self._tied = {name for name, parameter in self._parameters.items() if id(parameter) in tables}
        # a parametrised weight is computed, and never seen
        readers = {axis for axis in elements if "parametrizations" not in axis[0].split(".")}
        self._readers = {axis for axis in readers if axis[0] not in self._tied}
        self._sees = not self._readers

    def take_in(self, batch: Any) -> None:
        """Run the network on a batch as it was, and again: each consumer is refitted when the batch comes to it."""
        read: defaultdict[Place, deque[Seen]] = defaultdict(deque)

        def remember(reading: Reading) -> None:
            place = self._known(reading)
            if place is not None:
                read[place].append(self._consumers[place].seen(reading))

        def refit(reading: Reading) -> None:
            place = self._known(reading)
            if place is not None and read[place]:
                self._consumers[place].refit(read[place].popleft(), reading, self._damping)

        now = _weights_of(self._model)
        for weights, observe in ((self._before, remember), (now, refit)):
            _write(self._model, weights)
            with undisturbed(self._model), watching(self._model, observe):
                forward(self._model, batch)

    def check(self) -> None:
        """SurgeryError where no weight of the model was seen to read what could go. That none of those was seen that
        read what does go is no error: batches may bring nothing to an expert."""
        if not self._sees:
            raise SurgeryError(
                f"Expected at least one of {len(self._readers)} weights that read prunable channels to be seen in a "
                f"product with activations on these batches, {min(self._readers)[0]} say, but none was. Only products "
                "of matrices and convolutions are refitted, whose weights are not computed; leave compensation out."
            )

    def _known(self, reading: Reading) -> Place | None:
        """Where the reading is, which is remembered; None where nothing goes from what is read."""
        axis = reading.parameter, reading.dim
        if reading.parameter in self._tied:
            return None
        self._sees = self._sees or axis in self._readers
        kept = self._kept.get(axis)
        if kept is None:
            return None
        place = Place.of(reading, kept, self._elements.get(axis, 1))
        if place not in self._consumers:
            self._consumers[place] = Consumer(place, self._parameters, self._before, kept)
        self._consumers[place].biases.add(reading.bias)
        return place
