"""Functions that keep their results: what a trace computes is never among them, nor what was before a removal."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.testing import removal_error
from proof import sizes

ROW = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@functools.lru_cache
def _half(width: int) -> int:
    return width // 2


@functools.cache
def _ones(width: int) -> Tensor:
    return torch.ones(width)


class Halves(nn.Module):
    """Two layers whose widths are equal only as long as nothing is removed, and a kept result for that width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 8)
        self.c, self.d = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        a = torch.cat([a[:, _half(a.shape[1]) :], a[:, : _half(a.shape[1])]], 1) * _ones(a.shape[1])
        b = torch.cat([b[:, _half(b.shape[1]) :], b[:, : _half(b.shape[1])]], 1) * _ones(b.shape[1])
        return self.c(a) + self.d(b)


class Methods(nn.Module):
    """A scale that a method computes once, by the way that `way` says."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.last, self.width = nn.Linear(6, 8), nn.Linear(8, 2), 8
        self.way = way
        self.own = functools.lru_cache(lambda: torch.full((self.first.out_features,), 2.0))
        self.bound = functools.cache(self.compute)

    def compute(self) -> Tensor:
        return torch.full((self.width,), 2.0)

    @functools.cache  # noqa: B019
    def method(self) -> Tensor:
        return torch.full((self.width,), 2.0)

    @staticmethod
    @functools.cache
    def static(module: Methods) -> Tensor:
        return torch.full((module.width,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        scale = self.static(self) if self.way == "static" else getattr(self, self.way)()
        return self.last(y * scale.to(y.dtype))


@pytest.mark.parametrize("run_before", [False, True])
def test_no_layer_gets_the_sizes_of_another(run_before: bool) -> None:
    _half.cache_clear()
    _ones.cache_clear()
    model = Halves()
    if run_before:
        model(ROW)
    before = _half.cache_info(), _ones.cache_info()
    structure = icycle.trace(model, ROW)
    assert (_half.cache_info(), _ones.cache_info()) == before  # nothing was put there, nothing was dropped
    assert sizes(structure) == {"a": 4, "b": 4}
    assert all(group.exact for group in structure.prunable)
    subnet = icycle.SubNetwork.random(structure, 0.5, seed=0)
    assert removal_error(model, ROW, subnet, structure=structure) <= 1e-5
    assert icycle.prune(model, structure, subnet)(ROW).shape == (4, 2)


def test_the_models_own_results_are_real() -> None:
    _ones.cache_clear()
    model = Halves()
    icycle.trace(model, ROW)
    assert not _ones(8).is_meta
    assert torch.isfinite(model(ROW)).all()


@pytest.mark.parametrize("way", ["own", "bound", "method", "static"])
def test_what_was_kept_before_a_removal_is_not_found_after_it(way: str) -> None:
    model = Methods(way)
    expected = copy.deepcopy(model.state_dict())
    model(ROW)
    structure = icycle.trace(model, ROW)
    assert sizes(structure) == {"first": 8}
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5, seed=0))
    assert model(ROW).shape == (4, 2)
    assert expected.keys() == model.state_dict().keys()
