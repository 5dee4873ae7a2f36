"""Gathering and scattering, regions of images, packed sequences, Fourier transforms, cells, products of activations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import IMAGE, ROW, WORDS, Case, Net, conv
from proof import prove, reasons, sizes

EDGES = torch.tensor([[0, 1, 2, 3, 4, 4], [1, 2, 3, 4, 0, 2]])  # from, to
NODES = torch.randn(5, 6, generator=torch.Generator().manual_seed(4))


def _layers(width: int = 6) -> dict[str, nn.Module]:
    return {"a": nn.Linear(width, 8), "out": nn.Linear(8, 2)}


def _summed(net: Net, x: Tensor) -> Tensor:
    y = net.a(x).relu()
    return net.out(torch.zeros_like(y).index_add(0, EDGES[1], y[EDGES[0]]))


def _scattered(net: Net, x: Tensor, reduce: str) -> Tensor:
    y = net.a(x).relu()
    index = EDGES[1][:, None].expand(-1, y.shape[1])
    return net.out(y.new_zeros(5, y.shape[1]).scatter_reduce(0, index, y[EDGES[0]], reduce))


def _put(net: Net, x: Tensor) -> Tensor:
    y = net.a(x).relu()
    return net.out(torch.zeros_like(y).index_put((EDGES[1],), y[EDGES[0]], accumulate=True))


def _gathered(net: Net, x: Tensor) -> Tensor:
    y = net.a(x).relu()
    index = torch.tensor([[3, 1], [0, 4]])[:, :, None].expand(-1, -1, y.shape[2])
    return net.out(y.gather(1, index))


def _sampled(net: Net, x: Tensor) -> Tensor:
    grid = net.grid(x).permute(0, 2, 3, 1).tanh()
    return net.out(F.grid_sample(net.a(x).relu(), grid, align_corners=False))


def _packed(net: Net, x: Tensor) -> Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(net.a(x).relu(), torch.tensor([5, 3]), batch_first=True)
    return net.out(nn.utils.rnn.pad_packed_sequence(net.core(packed)[0], batch_first=True)[0])


def _pooled(net: Net, x: Tensor) -> Tensor:
    """A weighted mean over positions; no heads."""
    y = net.a(x)
    return net.out(torch.bmm(net.score(x).softmax(1).transpose(1, 2), y).squeeze(1))


CASES = {
    "messages summed by index_add": Case(lambda: Net(_summed, **_layers()), NODES, {"a": 8}),
    "messages summed by scatter": Case(lambda: Net(lambda n, x: _scattered(n, x, "sum"), **_layers()), NODES, {"a": 8}),
    "messages compared": Case(lambda: Net(lambda n, x: _scattered(n, x, "amax"), **_layers()), NODES, {"a": 8}),
    "messages averaged": Case(lambda: Net(lambda n, x: _scattered(n, x, "mean"), **_layers()), NODES, {"a": 8}),
    "put by index": Case(lambda: Net(_put, **_layers()), NODES, {"a": 8}),
    "gather of positions": Case(lambda: Net(_gathered, **_layers(12)), WORDS, {"a": 8}),
    "a grid of positions": Case(lambda: Net(_sampled, a=conv(3, 8), grid=conv(3, 2), out=conv(8, 4)), IMAGE, {"a": 8}),
    "packed sequences": Case(
        lambda: Net(_packed, a=nn.Linear(12, 10), core=nn.LSTM(10, 8, batch_first=True), out=nn.Linear(8, 2)),
        WORDS,
        {"a": 10, "core": 8},
    ),
    "attention pooling": Case(
        lambda: Net(_pooled, a=nn.Linear(12, 8), score=nn.Linear(12, 1), out=nn.Linear(8, 2)), WORDS, {"a": 8}
    ),
    "a spectral layer": Case(
        lambda: Net(
            lambda net, x: net.out(torch.fft.irfft(torch.fft.rfft(net.a(x), dim=1), n=5, dim=1)), **_layers(12)
        ),
        WORDS,
        {"a": 8},
    ),
    "distances": Case(
        lambda: Net(
            lambda net, x: net.out(torch.cdist(net.a(x), net.b(x))),
            a=nn.Linear(12, 8),
            b=nn.Linear(12, 8),
            out=nn.Linear(5, 2),
        ),
        WORDS,
        {"a": 8},
    ),
    "a bag of embeddings": Case(
        lambda: Net(lambda net, x: net.out(net.bag(x).relu()), bag=nn.EmbeddingBag(9, 8), out=nn.Linear(8, 2)),
        torch.tensor([[1, 2, 3], [4, 5, 8]]),
        {"bag": 8},
    ),
    "LSTM cell": Case(
        lambda: Net(
            lambda net, x: net.out(net.cell(net.a(x).relu())[0]),
            a=nn.Linear(6, 10),
            cell=nn.LSTMCell(10, 8),
            out=nn.Linear(8, 2),
        ),
        ROW,
        {"a": 10, "cell": 8},
    ),
    "GRU cell, twice": Case(
        lambda: Net(lambda net, x: net.out(net.cell(x, net.cell(x))), cell=nn.GRUCell(6, 8), out=nn.Linear(8, 2)),
        ROW,
        {"cell": 8},
    ),
    "RNN cell": Case(
        lambda: Net(lambda net, x: net.out(net.cell(x)), cell=nn.RNNCell(6, 8), out=nn.Linear(8, 2)), ROW, {"cell": 8}
    ),
}


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("name", CASES)
def test_a_share_of_everything_goes_as_promised(name: str, seed: int | None) -> None:
    case = CASES[name]
    structure = prove(case.build(), case.inputs, seed)
    assert sizes(structure) == case.groups, reasons(structure)
    assert {group.name for group in structure.prunable if not group.exact} == case.inexact


def test_channels_of_an_image_pass_the_alignment_of_regions() -> None:
    torchvision = pytest.importorskip("torchvision")

    class Regions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = conv(3, 8), conv(8, 4)
            self.register_buffer("boxes", torch.tensor([[0.0, 0, 0, 4, 4], [1, 2, 2, 7, 7]]))

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torchvision.ops.roi_align(self.a(x).relu(), self.boxes.to(x.dtype), 2))

    structure = prove(Regions(), IMAGE)
    assert sizes(structure) == {"a": 8}, reasons(structure)
    assert structure["a"].exact


def test_elements_by_their_place_in_memory_stay_and_say_why() -> None:
    net = Net(lambda net, x: net.out(net.a(x).as_strided((2, 8), (8, 1))), **_layers())
    structure = prove(net, ROW)
    assert not structure.prunable
    assert "place in memory" in structure["a"].reason


def test_a_network_of_many_sampled_layers_is_traced_at_once() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        y = net.stem(x)
        for layer in net.layers:
            grid = net.grid(y).permute(0, 2, 3, 1).tanh()
            y = layer(F.grid_sample(y, grid, align_corners=False)).relu()
        return net.out(y)

    layers = nn.ModuleList(conv(4, 4) for _ in range(20))
    net = Net(forward, stem=conv(3, 4), layers=layers, grid=conv(4, 2), out=conv(4, 2))
    assert sizes(prove(net, IMAGE)) == {"stem": 4, "layers.19": 4}
