"""What layers that multiply say about dimensions, on the smallest modules that use them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cases import IMAGE, ROW, WORDS, Case, Net, conv
from proof import prove, reasons

CASES = {
    "linear": Case(lambda: nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2)), ROW, {"0": 10}),
    "linear without bias on (..., features)": Case(
        lambda: nn.Sequential(nn.Linear(12, 10, bias=False), nn.Tanh(), nn.Linear(10, 2)), WORDS, {"0": 10}
    ),
    "convolution": Case(lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}),
    "convolution in one dimension": Case(
        lambda: nn.Sequential(nn.Conv1d(5, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)), WORDS, {"0": 8}
    ),
    "convolution in three dimensions": Case(
        lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 4, 1)), torch.randn(2, 3, 4, 4, 4), {"0": 8}
    ),
    "dilated and strided": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, dilation=2), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}
    ),
    "circular padding": Case(
        lambda: nn.Sequential(conv(3, 8, padding_mode="circular"), nn.ReLU(), conv(8, 4, padding_mode="circular")),
        IMAGE,
        {"0": 8},
    ),
    "depthwise": Case(
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8, groups=8), nn.ReLU(), conv(8, 4)), IMAGE, {"0": 8}
    ),
    "depthwise with a multiplier": Case(
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 16, groups=8), nn.ReLU(), conv(16, 4)),
        IMAGE,
        {"0": 8, "2": 2},
    ),
    "grouped": Case(  # whole groups, channels within every group, and outputs within every group
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12, groups=4), nn.ReLU(), conv(12, 4)),
        IMAGE,
        {"0": 4, "0#2": 2, "2": 3},
    ),
    "transposed": Case(
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ReLU(), conv(6, 4)),
        IMAGE,
        {"0": 8, "2": 6},
    ),
    "transposed and grouped": Case(
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), nn.ConvTranspose2d(8, 12, 2, groups=4), nn.ReLU(), conv(12, 4)),
        IMAGE,
        {"0": 4, "0#2": 2, "2": 3},
    ),
    "embedding": Case(
        lambda: Net(
            lambda net, x: net.out(torch.relu(net.hidden(net.table(x)))),
            table=nn.Embedding(9, 12),
            hidden=nn.Linear(12, 7),
            out=nn.Linear(7, 2),
        ),
        torch.tensor([[1, 2, 3], [4, 5, 8]]),
        {"table": 12, "hidden": 7},
    ),
    "tied weights": Case(lambda: _tied(), torch.tensor([[1, 2, 3], [4, 5, 8]]), {"table": 12, "hidden": 7}),
    "module used twice": Case(
        lambda: Net(
            lambda net, x: net.out(net.b(net.b(net.a(x).relu()).relu()).relu()),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 8),
            out=nn.Linear(8, 2),
        ),
        ROW,
        {"a": 8},
    ),
    "bilinear": Case(
        lambda: Net(
            lambda net, x: net.out(net.pair(net.a(x).relu(), net.b(x).relu()).relu()),
            a=nn.Linear(6, 5),
            b=nn.Linear(6, 7),
            pair=nn.Bilinear(5, 7, 8),
            out=nn.Linear(8, 2),
        ),
        ROW,
        {"a": 5, "b": 7, "pair": 8},
    ),
}


def _tied() -> nn.Module:
    return Net(
        lambda net, x: F.linear(net.back(torch.relu(net.hidden(net.table(x)))), net.table.weight),
        table=nn.Embedding(9, 12),
        hidden=nn.Linear(12, 7),
        back=nn.Linear(7, 12),
    )


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_right_or_say_why_not(kind: type[nn.RNNBase], bidirectional: bool, layers: int) -> None:
    net = Net(
        lambda net, x: net.out(net.hidden(net.core(net.a(x).relu())[0]).relu()),
        a=nn.Linear(12, 10),
        core=kind(10, 8, num_layers=layers, bidirectional=bidirectional, batch_first=True),
        hidden=nn.Linear(16 if bidirectional else 8, 6),
        out=nn.Linear(6, 2),
    )
    structure = prove(net, WORDS)
    assert structure["a"].prunable
    assert structure["hidden"].prunable
    assert any(structure[name].prunable for name in ("core",)), reasons(structure)
