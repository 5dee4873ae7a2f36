"""Compensation against least squares written out, and against the law that a redundant channel costs nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import icycle
from icycle.compensation._moments import Moments
from icycle.errors import DataError, SurgeryError


def removing(structure: icycle.Structure, **channels: list[int]) -> icycle.SubNetwork:
    """The sub-network without these channels of these groups (dots in names as double underscores)."""
    keep = {group.name: torch.ones(group.size, dtype=torch.bool) for group in structure.prunable}
    for name, gone in channels.items():
        keep[name.replace("__", ".")][gone] = False
    return icycle.SubNetwork(keep)


@pytest.mark.parametrize(
    ("rows", "outputs", "damping", "expected_damping"),
    [
        (200, 5, 0.05, 0.05),
        (200, 12, 0.05, 0.05),
        (10, 5, 1e-3, 1e-3),  # what is asked for is what is taken
        (10, 5, None, 0.1 * 5 / 10),  # few rows are not trusted
        (1000, 5, None, 1e-3),
    ],
)
def test_a_linear_consumer_gets_the_ridge_solution(
    rows: int, outputs: int, damping: float | None, expected_damping: float
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs)).double()
    x = torch.randn(rows, 6, dtype=torch.float64)
    structure = icycle.trace(model, x[:2])
    hidden, kept = model[1](model[0](x)).detach(), [0, 2, 3, 5, 7]
    old = copy.deepcopy(model[2])
    icycle.compensate(model, structure, removing(structure, **{"0": [1, 4, 6]}), [x], damping=damping)
    centered = hidden - hidden.mean(dim=0)
    ridge = expected_damping * centered[:, kept].square().mean()
    # minimise the mean of |target - W' x|^2 + ridge |W' - W|^2 by stacking sqrt(ridge) I under the data
    root = (ridge * len(x)).sqrt()
    data = torch.cat((centered[:, kept], root * torch.eye(5, dtype=torch.float64)))
    targets = torch.cat((centered @ old.weight.T, root * old.weight[:, kept].T))
    expected = torch.linalg.lstsq(data, targets).solution.T
    torch.testing.assert_close(model[2].weight[:, kept], expected, rtol=1e-4, atol=1e-5)
    assert (model[2].weight[:, [1, 4, 6]] == 0).all()
    torch.testing.assert_close(model(x).mean(dim=0), old(hidden).mean(dim=0), rtol=1e-5, atol=1e-6)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.wide, self.back = nn.Embedding(20, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.out = nn.Linear(16, 20, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.table(tokens)
        return self.out(hidden + self.back(torch.relu(self.wide(hidden))))


def test_a_projection_that_is_tied_to_a_table_is_left_alone() -> None:
    torch.manual_seed(0)
    model, tokens = Tied(), torch.randint(20, (8, 16))
    structure = icycle.trace(model, tokens[:2])
    table, back = model.table.weight.clone(), model.back.weight.clone()
    icycle.compensate(model, structure, icycle.SubNetwork.random(structure, ratio=0.4), [tokens])
    assert torch.equal(model.table.weight, table)
    assert not torch.equal(model.back.weight, back)


def test_where_nothing_is_lost_weights_stay_however_little_was_seen() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)).double()
    with torch.no_grad():
        model[0].bias[3] = -100.0  # always silent
    x = torch.randn(3, 6, dtype=torch.float64)
    structure = icycle.trace(model, x)
    old = model[2].weight.detach().clone()
    icycle.compensate(model, structure, removing(structure, **{"0": [3]}), [x])
    kept = [0, 1, 2, 4, 5, 6, 7]
    torch.testing.assert_close(model[2].weight[:, kept], old[:, kept])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0])


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(3, 4, 3, bias=False)
        self.c = nn.ConvTranspose2d(8, 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.cat((self.a(x), self.b(x).relu()), dim=1))


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1, bias=False))


@torch.no_grad()
def copy_rows(model: nn.Module, rows: dict[str, dict[int, int]]) -> None:
    for name, pairs in rows.items():
        parameter = model.get_parameter(name)
        for to, source in pairs.items():
            parameter[to] = parameter[source]


HEAD_1_IS_HEAD_0 = {part + 3 + place: part + place for part in (0, 12, 24) for place in range(3)}
REDUNDANT = {  # a network, its input, which rows are made copies of others, and what is removed of them
    "convolution": (two_layers(), (2, 3, 9, 9), {"0.weight": {4: 1}, "0.bias": {4: 1}}, {"0": [4]}),
    "transposed, after a concatenation": (Joined(), (2, 3, 9, 9), {"a.weight": {3: 0}}, {"a": [3]}),
    "heads": (
        Attention(),
        (2, 7, 12),
        {"attention.in_proj_weight": HEAD_1_IS_HEAD_0, "attention.in_proj_bias": HEAD_1_IS_HEAD_0},
        {"attention": [1]},
    ),
}


@pytest.mark.parametrize("case", REDUNDANT.values(), ids=REDUNDANT)
def test_a_copy_of_a_channel_that_stays_is_removed_for_nothing(
    case: tuple[nn.Module, tuple[int, ...], dict[str, dict[int, int]], dict[str, list[int]]],
) -> None:
    template, shape, rows, gone = case
    model = copy.deepcopy(template).eval()
    torch.manual_seed(1)
    x = torch.randn(shape)
    copy_rows(model, rows)
    before = model(x)
    structure = icycle.trace(model, x)
    subnet = removing(structure, **{name.replace(".", "__"): channels for name, channels in gone.items()})
    plain = icycle.prune(copy.deepcopy(model), structure, subnet)
    assert (plain(x) - before).norm() > 1e-2 * before.norm(), "removing costs something here"
    icycle.compensate(model, structure, subnet, [torch.randn(64, *shape[1:]) for _ in range(3)], damping=1e-7)
    torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-3)
    icycle.prune(model, structure, subnet)
    torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-3)


def test_behind_a_wide_flattening_the_positions_of_a_channel_are_refitted_alike() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 20 * 20, 5)).eval()
    copy_rows(model, {"0.weight": {4: 1, 7: 2}, "0.bias": {4: 1, 7: 2}})
    x = torch.randn(4, 3, 22, 22)  # as equations, fewer than channels: only the positions make them enough
    before, head = model(x), model[3].weight.detach().clone().view(5, 12, 400)
    structure = icycle.trace(model, x)
    icycle.compensate(model, structure, removing(structure, **{"0": [4, 7]}), [x], damping=1e-6)
    torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-3)
    expected = head.clone()
    expected[:, [1, 2]] += head[:, [4, 7]]
    expected[:, [4, 7]] = 0
    torch.testing.assert_close(model[3].weight.view(5, 12, 400), expected, rtol=1e-3, atol=1e-4)


def test_the_output_no_longer_depends_on_what_will_be_removed() -> None:
    torch.manual_seed(0)
    model, x = two_layers().eval(), torch.randn(4, 3, 9, 9)
    structure = icycle.trace(model, x)
    subnet = icycle.SubNetwork.random(structure, 0.5)
    icycle.compensate(model, structure, subnet, [x])
    after = model(x)
    torch.testing.assert_close(icycle.prune(model, structure, subnet)(x), after)


def test_modes_statistics_and_the_random_state_stay() -> None:
    model, x = two_layers().train(), torch.randn(4, 3, 9, 9)
    structure = icycle.trace(model, x)
    statistics = copy.deepcopy(model[1].state_dict())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    icycle.compensate(model, structure, icycle.SubNetwork.random(structure, 0.5), [(x, torch.zeros(4))])
    assert torch.equal(torch.rand(1), expected)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, model[1].state_dict()[key]) for key, value in statistics.items())


@pytest.mark.parametrize("batches", [[], [torch.full((4, 3, 9, 9), torch.nan)]], ids=["none", "not finite"])
def test_bad_data_changes_nothing(batches: list[torch.Tensor]) -> None:
    model, x = two_layers(), torch.randn(4, 3, 9, 9)
    structure = icycle.trace(model, x)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match="Expected"):
        icycle.compensate(model, structure, icycle.SubNetwork.random(structure, 0.5), batches)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_after_the_removal_it_is_too_late() -> None:
    model, x = two_layers(), torch.randn(4, 3, 9, 9)
    structure = icycle.trace(model, x)
    subnet = icycle.SubNetwork.random(structure, 0.5)
    icycle.prune(model, structure, subnet)
    with pytest.raises(SurgeryError, match=r"before icycle\.prune"):
        icycle.compensate(model, structure, subnet, [x])


@pytest.mark.parametrize("damping", [0.0, -1.0, float("inf"), float("nan")])
def test_a_damping_out_of_range_is_refused(damping: float) -> None:
    model, x = two_layers(), torch.randn(4, 3, 9, 9)
    structure = icycle.trace(model, x)
    with pytest.raises(SurgeryError, match=f"0 < damping < inf.*{damping}"):
        icycle.compensate(model, structure, icycle.SubNetwork.random(structure, 0.5), [x], damping=damping)


# Consumers behind each other


def three_layers() -> nn.Sequential:
    """Wide enough that much can go, of correlated channels, so that much can be made up for."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)
    )


def test_a_consumer_is_refitted_to_what_the_refitted_ones_before_it_put_out() -> None:
    model, x, damping = three_layers().double(), torch.randn(400, 6, dtype=torch.float64), 0.01
    structure = icycle.trace(model, x[:2])
    subnet = icycle.SubNetwork.random(structure, 0.5)
    old = copy.deepcopy(model)
    icycle.compensate(model, structure, subnet, [x], damping=damping)
    kept = subnet.keep["2"]
    before, now = old[:4](x), model[:4](x)[:, kept]
    assert (before[:, kept] - now).norm() > 0.05 * now.norm(), "what the consumer reads is no longer what it was"
    centered, target = now - now.mean(dim=0), old[4](before) - old[4](before).mean(dim=0)
    gram = centered.T @ centered / len(x)
    ridge = damping * gram.diagonal().mean()
    cross = centered.T @ target / len(x) + ridge * old[4].weight[:, kept].T
    expected = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=torch.float64), cross).T
    torch.testing.assert_close(model[4].weight[:, kept], expected, rtol=1e-4, atol=1e-5)


def test_in_turn_is_better_than_each_for_itself() -> None:
    model, x, fresh = three_layers(), torch.randn(2000, 6), torch.randn(2000, 6)
    structure = icycle.trace(model, x[:2])
    errors = torch.zeros(2)
    for seed in range(5):
        subnet = icycle.SubNetwork.random(structure, 0.3, seed=seed)
        apart = copy.deepcopy(model)
        for group, consumer in (("0", 2), ("2", 4), ("4", 6)):
            one = {name: kept if name == group else torch.ones_like(kept) for name, kept in subnet.keep.items()}
            alone = icycle.compensate(copy.deepcopy(model), structure, icycle.SubNetwork(one), [x])
            apart[consumer].load_state_dict(alone[consumer].state_dict())
        in_turn = icycle.compensate(copy.deepcopy(model), structure, subnet, [x])
        errors += torch.stack([(network(fresh) - model(fresh)).norm().detach() for network in (in_turn, apart)])
    assert errors[0] < 0.97 * errors[1]


class Sorted(nn.Module):
    """Hands its samples on in an order that depends on what refitted weights make of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = three_layers()[:5], nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(x)
        order = x.sum(dim=1).argsort()
        return self.head(x[order].relu())[order.argsort()]


def test_positions_that_no_longer_belong_together_are_not_compared() -> None:
    model, x = Sorted(), torch.randn(500, 6)
    structure = icycle.trace(model, x[:2])
    subnet = icycle.SubNetwork.random(structure, 0.5)
    expected = model(x)
    plain = icycle.prune(copy.deepcopy(model), structure, subnet)(x)
    icycle.compensate(model, structure, subnet, [x])
    assert (model(x) - expected).norm() < 0.7 * (plain - expected).norm()


class Shared(nn.Module):
    """The first two samples are for one expert, whatever else there is for another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.few, self.rest = nn.Linear(6, 12), nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        return torch.cat([self.few(x[:2]), self.rest(x[2:])])


@pytest.mark.parametrize("sizes", [(2,), (2, 300), (300, 2)])
def test_a_consumer_to_which_a_batch_has_nothing_to_say_learns_from_the_others(sizes: tuple[int, ...]) -> None:
    model, x = Shared(), torch.randn(300, 6)
    structure = icycle.trace(model, x[:4])
    subnet = icycle.SubNetwork.random(structure, 0.5)
    expected = model(x)
    plain = icycle.prune(copy.deepcopy(model), structure, subnet)(x)
    icycle.compensate(model, structure, subnet, [x[:size] for size in sizes])
    assert model(x).isfinite().all()
    if max(sizes) == 300:
        assert (model(x) - expected)[2:].norm() < 0.9 * (plain - expected)[2:].norm()


def test_moments_are_those_of_all_vectors_however_far_from_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    x, z = (1000 + torch.randn(300, size, generator=generator) for size in (3, 4))
    moments = Moments(3, 4, torch.device("cpu"))
    for part in zip(x.split(100), z.split(100), strict=True):
        moments.update(*part)
    exact = torch.cat([x, z], dim=1).double()
    covariance, second = torch.cov(exact.T, correction=0), exact.T @ exact / 300
    for found, whole in ((moments.covariance(), covariance), (moments.second(), second)):
        assert torch.allclose(found[0], whole[:3, 3:], atol=1e-5)
        assert torch.allclose(found[1], whole[3:, 3:], atol=1e-5)
    assert torch.allclose(torch.cat(moments.means()), exact.mean(dim=0))
