"""Recurrence and scans, by layers, by cells and by hand."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversary import Case, in_heads, joined, linears, parameter, sequence, traps


def _parts() -> dict[str, Any]:
    return {**linears(q=(8, 8), k=(8, 8), v=(8, 8), o=(8, 8))(), "heads": 4, "few": 2}


def _scan(m: Any, x: Tensor) -> Tensor:
    """A selective state space, step by step (Mamba)."""
    u, gate = m.i(x).chunk(2, -1)
    delta, b, c = m.p(u).split((1, 3, 3), -1)
    delta = F.softplus(delta + m.d)
    decay = torch.exp(delta[..., None] * -m.a.exp())
    state, outs = torch.zeros(2, u.shape[-1], 3).double(), []
    for t in range(6):
        state = decay[:, t] * state + (delta * u)[:, t, :, None] * b[:, t, None]
        outs.append((state * c[:, t, None]).sum(-1))
    return m.o((torch.stack(outs, 1) + u * m.k) * F.silu(gate))


def _scan_bmm(m: Any, x: Tensor) -> Tensor:
    """The same with products of matrices, and the width read from the tensor."""
    batch, n, width = x.shape
    state, outs = x.new_zeros(batch, width, m.a.shape[1]), []
    for t in range(n):
        state = state * m.a.sigmoid() + x[:, t, :, None] * m.b(x[:, t])[:, None]
        outs.append(torch.bmm(state, m.c(x[:, t])[..., None]).squeeze(-1))
    return torch.stack(outs, 1)


def _dual(m: Any, x: Tensor) -> Tensor:
    """Structured state-space duality: a masked product in the place of the scan (Mamba 2)."""
    v, k, q = in_heads(m.v(x), m.few), in_heads(m.k(x), m.few), in_heads(m.q(x), m.few)
    decay = F.logsigmoid(m.g(x)).mT.cumsum(-1)
    mask = (decay[..., :, None] - decay[..., None, :]).exp().tril()
    return m.o(joined((q @ k.mT * mask) @ v))


def _conv_state(m: Any, x: Tensor) -> Tensor:
    """Hyena: long convolutions by FFT, gates in between."""
    u, v, w = m.i(x).mT.chunk(3, 1)
    f = torch.fft.rfft(m.f, n=12)
    return m.o((torch.fft.irfft(torch.fft.rfft(u * v, n=12) * f, n=12)[..., :6] * w).mT)


def _unit(m: Any, x: Tensor) -> Tensor:
    """The linear recurrent unit: a diagonal complex state."""
    turn = torch.polar((-m.r.exp()).exp(), m.t)
    state, outs = torch.zeros(2, 4, dtype=torch.complex128), []
    for t in range(6):
        state = state * turn + torch.complex(m.a(x[:, t]), m.b(x[:, t]))
        outs.append(state.real - state.imag)
    return torch.stack(outs, 1)


def _gru_by_hand(m: Any, x: Tensor) -> Tensor:
    h = torch.zeros(2, 5).double()
    for t in range(6):
        r, z = m.g(torch.cat([x[:, t], h], -1)).sigmoid().chunk(2, -1)
        h = (1 - z) * h + z * m.c(torch.cat([x[:, t], r * h], -1)).tanh()
    return h


def _lstm_by_hand(m: Any, x: Tensor) -> Tensor:
    h = c = x.new_zeros(x.shape[0], m.u.in_features)
    for step in x.unbind(1):
        i, f, g, o = (m.w(step) + m.u(h)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return h


def _cells(m: Any, x: Tensor) -> Tensor:
    state = None
    for step in x.unbind(1):
        state = m.c(step, state)
    return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]


def _cells_sized(m: Any, x: Tensor) -> Tensor:
    h = torch.ones(x.shape[0], m.c.hidden_size).double()
    for step in x.unbind(1):
        h = m.c(step, h) / m.c.hidden_size**0.5
    return h


RECURRENT = traps(
    "recur",
    sequence,
    scan=(
        _scan,
        lambda: {
            "i": nn.Linear(8, 12),
            "p": nn.Linear(6, 7),
            "d": parameter(6),
            "a": parameter(6, 3),
            "k": parameter(6),
            "o": nn.Linear(6, 8),
        },
    ),
    scan_bmm=(_scan_bmm, lambda: {"a": parameter(8, 3), "b": nn.Linear(8, 3), "c": nn.Linear(8, 3)}),
    dual=(_dual, lambda: {**_parts(), "g": nn.Linear(8, 2)}),
    long_convolution=(_conv_state, lambda: {"i": nn.Linear(8, 12), "f": parameter(4, 6), "o": nn.Linear(4, 8)}),
    complex_unit=(_unit, lambda: {"a": nn.Linear(8, 4), "b": nn.Linear(8, 4), "r": parameter(4), "t": parameter(4)}),
    retention=(
        lambda m, x: m.o(
            joined(
                (
                    in_heads(m.q(x), m.heads)
                    @ in_heads(m.k(x), m.heads).mT
                    * 0.9 ** (torch.arange(6)[:, None] - torch.arange(6)).abs()
                )
                @ in_heads(m.v(x), m.heads)
            )
        ),
        _parts,
    ),
    token_shift=(
        lambda m, x: m.k(torch.lerp(x, F.pad(x, (0, 0, 1, -1)), m.s)).relu().square(),
        lambda: {"k": nn.Linear(8, 6), "s": parameter(8)},
    ),
    weighted_keys=(
        lambda m, x: (lambda k, v: (k.exp() * v).cumsum(1) / k.exp().cumsum(1))(m.k(x), m.v(x)),
        linears(k=(8, 6), v=(8, 6)),
    ),
    gru=(_gru_by_hand, linears(g=(13, 10), c=(13, 5))),
    lstm=(_lstm_by_hand, linears(w=(8, 20), u=(5, 20))),
    lstm_cell=(_cells, lambda: {"c": nn.LSTMCell(8, 5)}),
    gru_cell=(_cells, lambda: {"c": nn.GRUCell(8, 5)}),
    cell_by_size=(_cells_sized, lambda: {"c": nn.GRUCell(8, 5)}),
    lstm_sized=(
        lambda m, x: m.r(x, (torch.ones(1, 2, m.r.hidden_size).double(), torch.zeros(1, 2, m.r.hidden_size).double()))[
            0
        ],
        lambda: {"r": nn.LSTM(8, 5, batch_first=True)},
    ),
    lstm_summed=(lambda m, x: m.r(x)[1][1].sum(-1), lambda: {"r": nn.LSTM(8, 5, batch_first=True, bias=False)}),
    lstm_two=(lambda m, x: m.r(x)[0].exp(), lambda: {"r": nn.LSTM(8, 5, 2, batch_first=True, bidirectional=True)}),
    lstm_projected=(lambda m, x: m.r(x)[0].sum(-1), lambda: {"r": nn.LSTM(8, 5, batch_first=True, proj_size=3)}),
    rnn_states=(lambda m, x: m.r(x)[1].transpose(0, 1).flatten(1), lambda: {"r": nn.RNN(8, 5, 2, batch_first=True)}),
    gru_states_added=(lambda m, x: sum(m.r(x)[1].unbind(0)), lambda: {"r": nn.GRU(8, 5, 2, batch_first=True)}),
    gru_both_added=(
        lambda m, x: (lambda y: y[..., : m.r.hidden_size] + y[..., m.r.hidden_size :])(m.r(x)[0]),
        lambda: {"r": nn.GRU(8, 5, batch_first=True, bidirectional=True)},
    ),
    echo=(lambda m, x: _cells_tied(m, x), lambda: {"w": parameter(8, 8)}),
)


def _cells_tied(m: Any, x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for step in x.unbind(1):
        h = (h @ m.w + step).tanh()
    return h.square()


CASES: list[Case] = RECURRENT
