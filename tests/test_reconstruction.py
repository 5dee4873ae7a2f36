"""The criterion `reconstruction`: what consumers lose although they are refitted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import icycle
from icycle.errors import CriterionError
from icycle.saliency import reconstruction


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4))


def batches(*shape: int, count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(40, *shape, generator=generator), torch.zeros(40)) for _ in range(count)]


def scores_of(model: nn.Module, data: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return reconstruction(model, icycle.trace(model, data[0][0][:2]), loader=data)


def loss_without(read: torch.Tensor, weight: torch.Tensor, channels: list[int], elements: int = 1) -> float:
    """The share of W x (x centred) that least squares on what is left of x cannot give."""
    x = (read - read.mean(dim=0)).double()
    wanted = x @ weight.double().T
    left = [i for i in range(x.shape[1]) if i // elements not in channels]
    fit = x[:, left] @ torch.linalg.lstsq(x[:, left], wanted, driver="gelsd").solution if left else 0.0
    return float(((wanted - fit) ** 2).sum() / (wanted**2).sum())


@pytest.mark.parametrize("elements", [1, 4])
@pytest.mark.parametrize("together", [1, 3, 32])
def test_scores_are_the_losses_of_backward_elimination(
    elements: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step against least squares from scratch, over all channels that could go next."""
    monkeypatch.setattr("icycle.saliency._reconstruction._TOGETHER", together)
    if elements == 1:
        model, data = mlp(), batches(5)
        read = torch.cat([torch.relu(model[0](x)) for x, _ in data]).detach()
    else:
        model = nn.Sequential(nn.Conv2d(1, 7, 1), nn.ReLU(), nn.Flatten(), nn.Linear(28, 4))
        data = batches(1, 2, 2, count=60)
        read = torch.cat([model[:3](x) for x, _ in data]).detach()
    weight = model[-1].weight.detach()
    (scores,) = (values for values in scores_of(model, data).values())
    gone: list[int] = []
    for channel in scores.argsort().tolist():
        losses = {each: loss_without(read, weight, [*gone, each], elements) for each in range(7) if each not in gone}
        assert losses[channel] == pytest.approx(min(losses.values()), abs=0.02)
        gone.append(channel)
        assert float(scores[channel]) == pytest.approx(losses[channel], abs=0.02)
    assert float(scores.max()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("count", [1, 3])
def test_scores_reach_one_and_no_more_however_much_is_damped(count: int) -> None:
    """Losses and energy of a covariance with lambda on its diagonal, each written out."""
    model, data = mlp().double(), [(x[:4].double(), y) for x, y in batches(5, count=count)]
    read = torch.cat([torch.relu(model[0](x)) for x, _ in data]).detach()
    covariance, weight = torch.cov(read.T, correction=0), model[-1].weight.detach()
    noisy = covariance + max(1e-3, 0.1 * 7 / len(read)) * covariance.diagonal().mean() * torch.eye(7)
    (scores,) = (values for values in scores_of(model, data).values())
    gone: list[int] = []
    for channel in scores.argsort().tolist():
        gone.append(channel)
        left = [i for i in range(7) if i not in gone]
        lost = noisy[gone][:, gone] - noisy[gone][:, left] @ torch.linalg.solve(
            noisy[left][:, left], noisy[left][:, gone]
        )
        expected = (weight[:, gone] @ lost * weight[:, gone]).sum() / (weight @ noisy * weight).sum()
        assert float(scores[channel]) == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    assert float(scores.max()) == pytest.approx(1.0, abs=1e-6)


def test_of_too_many_elements_those_of_a_channel_count_as_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear layer behind a flattening is then scored like the convolution that it is."""
    data = batches(1, 2, 2)
    flat = nn.Sequential(nn.Conv2d(1, 7, 1), nn.ReLU(), nn.Flatten(), nn.Linear(28, 4))
    like = nn.Sequential(flat[0], flat[1], nn.Conv2d(7, 4, 2), nn.Flatten())
    with torch.no_grad():
        like[2].weight.copy_(flat[3].weight.view(4, 7, 2, 2))  # type: ignore[operator, union-attr]
    apart = next(iter(scores_of(flat, data).values()))
    monkeypatch.setattr("icycle.probing._channels._WIDE", 27)
    together = next(iter(scores_of(flat, data).values()))
    assert not torch.allclose(apart, together, rtol=0.05)
    torch.testing.assert_close(together, next(iter(scores_of(like, data).values())))


def test_of_two_channels_that_say_the_same_one_is_needed() -> None:
    model, data = mlp(), batches(5)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 2 * model[0].weight[0], 2 * model[0].bias[0]  # type: ignore[index, operator]
    scores = next(iter(scores_of(model, data).values()))
    pair = sorted(float(scores[i]) for i in (0, 1))
    assert pair[0] < 1e-3 < 0.05 < pair[1]


def test_what_is_constant_costs_nothing() -> None:
    """A bias, or the norm that follows, makes up for it."""
    model, data = mlp(), batches(5)
    with torch.no_grad():
        model[0].weight[3] = 0.0  # type: ignore[index, operator]
        model[0].bias[3] = 5.0  # type: ignore[index, operator]
    scores = next(iter(scores_of(model, data).values()))
    assert int(scores.argmin()) == 3
    assert float(scores[3]) == pytest.approx(0.0, abs=1e-3)  # the damping


def test_a_silent_network_is_scored_and_a_broken_one_refused() -> None:
    model, data = mlp(), batches(5)
    with torch.no_grad():
        model[0].weight.zero_()  # type: ignore[operator, union-attr]
        model[0].bias.zero_()  # type: ignore[operator, union-attr]
    with pytest.raises(CriterionError, match="read by a weight"):
        scores_of(model, data)
    with torch.no_grad():
        model[0].weight.fill_(math.nan)  # type: ignore[operator, union-attr]
    with pytest.raises(CriterionError, match="finite"):
        scores_of(model, data)
