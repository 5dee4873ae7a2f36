"""LSTM, GRU and plain recurrent layers: the hidden units go, with their row in every gate."""

from __future__ import annotations

from typing import Any

import torch

from icycle.axes import Dim, factor, sum_of
from icycle.reasons import Kind
from icycle.tracing._arguments import bind
from icycle.tracing._meta import GATES
from icycle.tracing._registry import register
from icycle.tracing._tracer import Tracer, flat_tensors

_GATES = {**GATES, **{f"{name}_cell": gates for name, gates in GATES.items()}}


@register("torch::lstm", "torch::gru", "torch::rnn_tanh", "torch::rnn_relu")
def recurrent(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
    """x (..., features); per layer and direction w_ih (gates * hidden, features), w_hh (gates * hidden, out), biases,
    and with a projection w_hr (out, hidden).

    One attribute and one initial state hold the hidden size of all layers and directions, so they all lose the same
    units."""
    overloads = getattr(torch.ops.aten, operation.function)
    packed = not isinstance(args[3], bool)  # then args[3] are the weights
    given = bind(overloads.data if packed else overloads.input, args, kwargs)
    x, weights, layers = given.data if packed else given.input, given.params, given.num_layers
    directions = 2 if given.bidirectional else 1
    initial = flat_tensors(given.hx)
    leading = tracer.dims(x)[:-1]
    batch_first = not packed and x.dim() == 3 and given.batch_first
    tracer.inexact(leading[1 if batch_first else 0], Kind.STEPS)  # even a step of zeros changes the state
    for tensor in initial:  # (layers * directions, ...)
        tracer.pin(tracer.dims(tensor)[0], Kind.POSITIONS)
    cell = _Cell(tracer, _GATES[operation.function], x, given.has_biases)
    features = tracer.dims(x)[-1]
    per_cell = len(weights) // (layers * directions)
    outputs: list[Dim] = []
    for number in range(layers * directions):
        if number and number % directions == 0:
            features = sum_of(outputs)
            outputs = []
        outputs.append(cell.relate(weights[number * per_cell : (number + 1) * per_cell], features))
    for tensor, dim in zip(initial, (cell.out, cell.hidden), strict=False):
        if dim is not None:
            tracer.unify(dim, tracer.dims(tensor)[-1])
        if not packed and x.dim() == 3:
            tracer.pin(tracer.dims(tensor)[0], Kind.PARTS, "layers and directions")
            tracer.unify(leading[0 if batch_first else 1], tracer.dims(tensor)[1])
    zero = _is_zero(tracer, initial, weights)
    _give_results(tracer, x, initial, outputs, cell, flat_tensors(result), zero)


@register("torch::lstm_cell", "torch::gru_cell", "torch::rnn_tanh_cell", "torch::rnn_relu_cell")
def recurrent_cell(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: Any) -> None:
    """One step: x (..., features), one state or two (..., hidden), weights and biases as above."""
    x, state, *rest = args
    weights = [weight for weight in rest if weight is not None]
    initial = flat_tensors(state)
    hidden = _Cell(tracer, _GATES[operation.function], x, len(weights) > 2).relate(weights, tracer.dims(x)[-1])
    for tensor in initial:
        tracer.unify(hidden, tracer.dims(tensor)[-1])
        tracer.unify_all(tracer.dims(x)[:-1], tracer.dims(tensor)[:-1])
    zero = _is_zero(tracer, initial, weights)
    for out in flat_tensors(result):
        tracer.give(out, (*tracer.dims(x)[:-1], hidden), [False] * (out.dim() - 1) + [zero])


def _is_zero(tracer: Tracer, initial: list[torch.Tensor], weights: list[torch.Tensor]) -> bool:
    """Whether removed units stay zero: nothing moves them, but half of what a state was stays in it."""
    still = all(all(tracer.info(weight).zero) for weight in weights)
    return still and all(tracer.info(tensor).zero[-1] for tensor in initial)


class _Cell:
    """Relates the weights of one layer and direction after the other; all have the same hidden units."""

    def __init__(self, tracer: Tracer, gates: int, x: torch.Tensor, biases: bool) -> None:
        self._tracer = tracer
        self._gates = gates
        self._leading = tracer.dims(x)[:-1]
        self._biases = biases
        self.hidden: Dim | None = None
        self.out: Dim | None = None

    def relate(self, weights: list[torch.Tensor], features: Dim) -> Dim:
        """Returns the dimension of this layer's and direction's output."""
        tracer = self._tracer
        w_ih, w_hh, *rest = (tracer.dims(weight) for weight in weights)
        tracer.unify(features, w_ih[1])
        for rows, role in (
            (w_ih[0], "out"),
            (w_hh[0], "out"),
            *((bias[0], "shift") for bias in rest[: 2 * self._biases]),
        ):
            tracer.role(rows, role)
            self._unify_hidden(rows)
        projection = rest[2 * self._biases :]
        out = projection[0][0] if projection else self.hidden
        assert self.hidden is not None and out is not None
        if projection:
            tracer.unify(projection[0][1], self.hidden)
            tracer.pin(self.hidden, Kind.PROJECTION)
        tracer.unify(w_hh[1], out)
        if self.out is None:
            self.out = out
        tracer.unify(self.out, out)
        tracer.cost("macs", 1, (*self._leading, *w_ih))
        tracer.cost("macs", 1, (*self._leading, *w_hh))
        for own in projection:
            tracer.cost("macs", 1, (*self._leading, *own))
        return out

    def _unify_hidden(self, rows: Dim) -> None:
        """`rows` are the gates one after the other, each with all hidden units."""
        pieces = factor(rows, rows.size // self._gates)
        if pieces is None:
            self._tracer.pin(rows, Kind.NO_ROWS, "gates")
            return
        self._tracer.pin(pieces[0], Kind.PARTS, "gates")
        if self.hidden is None:
            self.hidden = pieces[1]
        self._tracer.unify(self.hidden, pieces[1])


def _give_results(
    tracer: Tracer,
    x: torch.Tensor,
    initial: list[torch.Tensor],
    outputs: list[Dim],
    cell: _Cell,
    results: list[torch.Tensor],
    zero: bool,
) -> None:
    """The sequence of outputs, then the last states, which are shaped like the initial ones."""
    sequence, *states = results
    tracer.give(sequence, (*tracer.dims(x)[:-1], sum_of(outputs)), [False] * (sequence.dim() - 1) + [zero])
    for state, like, dim in zip(states, initial, (cell.out, cell.hidden), strict=False):
        assert dim is not None
        tracer.give(state, (*tracer.dims(like)[:-1], dim), [False] * (state.dim() - 1) + [zero])
