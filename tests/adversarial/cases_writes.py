"""Indexing that writes or picks, graphs, distances, and weights that are put together."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversary import Case, linears, parameter, row, traps


def _graph(m: Any, x: Tensor) -> Tensor:
    """Messages along edges, summed at their ends and divided by their number."""
    source, end = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([1, 0, 0, 2, 1])
    summed = torch.zeros(4, x.shape[1]).double().index_add(0, end, m.l(x)[source])
    return summed / torch.bincount(end, minlength=4).clamp(min=1)[:, None]


def _graph_attention(m: Any, x: Tensor) -> Tensor:
    source, end = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([1, 0, 0, 2, 1])
    y = m.l(x).view(4, m.heads, -1)
    score = ((y * m.s).sum(-1)[source] + (y * m.e).sum(-1)[end]).exp()
    total = torch.zeros(4, m.heads).double().scatter_add(0, end[:, None].expand_as(score), score)
    return torch.zeros_like(y).index_add(0, end, y[source] * (score / total[end])[..., None]).flatten(1)


WRITES = traps(
    "write",
    row,
    graph=(_graph, linears(l=(8, 8))),
    graph_attention=(
        _graph_attention,
        lambda: {"l": nn.Linear(8, 8), "heads": 4, "s": parameter(1, 4, 2), "e": parameter(1, 4, 2)},
    ),
    graph_largest=lambda x: (
        torch.zeros(3, x.shape[1])
        .double()
        .scatter_reduce(0, torch.tensor([0, 1, 1, 2])[:, None].expand_as(x), x.exp(), "amax")
    ),
    graph_mean=lambda x: (
        torch.ones(3, x.shape[1])
        .double()
        .scatter_reduce(0, torch.tensor([0, 1, 1, 2])[:, None].expand(-1, x.shape[1]), x, "mean")
    ),
    put=lambda x: (
        torch.zeros(6, x.shape[1]).double().index_put((torch.tensor([1, 3, 3, 5]),), x, accumulate=True).cos()
    ),
    put_columns=lambda x: torch.zeros(4, 9).double().index_put((torch.arange(4)[:, None], torch.arange(8)), x),
    put_mask=lambda x: (
        torch.ones(6, x.shape[1]).double().index_put((torch.tensor([True, False, True, True, True, False]),), x)
    ),
    memory=(lambda m, x: _memory(m, x), lambda: {"k": parameter(6, 8), "v": parameter(6, 8)}),
    permuted=lambda x: x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))],
    picked=lambda x: x[torch.arange(4), torch.tensor([0, 3, 1, 2])][:, None] + x,
    best=lambda x: x.gather(1, x.topk(3, 1).indices),
    along=lambda x: torch.take_along_dim(x, x.argsort(0), 0),
    taken=lambda x: torch.take(x, torch.arange(8)),
    selected=lambda x: torch.masked_select(x, torch.ones(4, 1).double() > 0).view(4, -1),
    column=lambda x: torch.select_scatter(x, x[:, 1].exp(), 1, 0),
    slices=lambda x: torch.slice_scatter(x, x[:, :4].exp(), 1, 4, 8),
    rows=lambda x: torch.slice_scatter(x, x[:2].exp(), 0, 2, 4),
    diagonal=lambda x: torch.diag_embed(x).sum(1),
    embedded=lambda x: torch.diag_embed(x) @ x.T,
    bucket=lambda x: F.one_hot(torch.bucketize(x, torch.tensor([-1.0, 0, 1]).double()), 4).double().sum((1, 2)),
    hot=lambda x: F.one_hot(x.argmax(1), x.shape[1]).double() * x,
    dropped=lambda x: F.dropout(x, 0.0, training=True),
    positions=(lambda m, x: x + m.e(torch.arange(x.shape[0])), lambda: {"e": nn.Embedding(6, 8)}),
    quantised=(lambda m, x: m.e(torch.cdist(x, m.e.weight).argmin(1)), lambda: {"e": nn.Embedding(6, 8)}),
    products=(lambda m, x: x @ m.e.weight.T, lambda: {"e": nn.Embedding(6, 8, max_norm=1.0)}),
    renormed=(lambda m, x: x + m.e(torch.tensor([1, 2, 0, 3])), lambda: {"e": nn.Embedding(6, 8, max_norm=0.1)}),
    bags=(
        lambda m, x: x + m.e(torch.tensor([[1, 2], [0, 3], [1, 1], [4, 5]])),
        lambda: {"e": nn.EmbeddingBag(6, 8, mode="max")},
    ),
    bags_computed=(
        lambda m, x: (x + F.embedding_bag(torch.tensor([[1, 2], [0, 3], [1, 1], [4, 5]]), m.w.exp())).sum(1),
        lambda: {"w": parameter(6, 8)},
    ),
    searched=lambda x: x * torch.searchsorted(torch.arange(4).double(), x.sum(1, keepdim=True)),
    polynomial=lambda x: torch.stack([x**k for k in range(3)], -1).flatten(1),
    vandermonde=lambda x: torch.linalg.vander(x[:, :3]).flatten(1),
    singular=lambda x: torch.linalg.svdvals(x),
    whitened=lambda x: x @ torch.linalg.inv(x.T @ x + torch.eye(x.shape[1]).double()),
    solved=(lambda m, x: torch.linalg.solve(m.w + 9 * torch.eye(8).double(), x.T).T, lambda: {"w": parameter(8, 8)}),
    triangular=(
        lambda m, x: torch.linalg.solve_triangular(m.w.tril() + 9 * torch.eye(8).double(), x.T, upper=False).T,
        lambda: {"w": parameter(8, 8)},
    ),
    unit_rows=lambda x: x / x.norm(dim=1, keepdim=True),
    cosine=(lambda m, x: F.cosine_similarity(x[:, None], m.w[None], dim=-1), lambda: {"w": parameter(6, 8)}),
    margin=(
        lambda m, x: F.linear(F.normalize(x), F.normalize(m.w)).clamp(-1, 1).acos(),
        lambda: {"w": parameter(6, 8)},
    ),
    radial=(lambda m, x: (-torch.cdist(x, m.w).square()).exp(), lambda: {"w": parameter(6, 8)}),
    kolmogorov=(
        lambda m, x: torch.einsum("bck,ock->bo", torch.stack([(x * k).sin() for k in (1, 2)], -1), m.w),
        lambda: {"w": parameter(6, 8, 2)},
    ),
    splines=(
        lambda m, x: torch.einsum("bck,ock->bo", (-(x[..., None] - m.g).square()).exp(), m.w),
        lambda: {"w": parameter(6, 8, 3), "g": torch.randn(3).double()},
    ),
    factored=(
        lambda m, x: x @ (m.u @ m.v) + x @ m.w.T,
        lambda: {"u": parameter(8, 2), "v": parameter(2, 6), "w": parameter(6, 8)},
    ),
    adapted=(
        lambda m, x: F.linear(x, m.l.weight + m.a @ m.b / m.rank, m.l.bias),
        lambda: {"l": nn.Linear(8, 6), "a": parameter(6, 2), "b": parameter(2, 8), "rank": 2},
    ),
    decomposed=(
        lambda m, x: F.linear(
            x, m.g[:, None] * (m.l.weight + m.a @ m.b) / (m.l.weight + m.a @ m.b).norm(dim=1, keepdim=True)
        ),
        lambda: {"l": nn.Linear(8, 6), "a": parameter(6, 2), "b": parameter(2, 8), "g": parameter(6)},
    ),
)


def _memory(m: Any, x: Tensor) -> Tensor:
    scores = x @ m.k.T
    best = scores.topk(2, -1)
    return (best.values.softmax(-1)[..., None] * m.v[best.indices]).sum(1)


CASES: list[Case] = WRITES
