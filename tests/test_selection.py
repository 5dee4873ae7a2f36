"""Selection against exhaustive search on small structures, and the laws that it must keep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icycle.axes import Polynomial
from icycle.errors import BudgetError, CriterionError, StructureError
from icycle.reasons import Kind, Reason
from icycle.selection import Budget, achieved, select, select_ratio
from icycle.structure import Cost, Group, Slice, Structure, SubNetwork

Terms = Mapping[tuple[int, ...], int]


def make_group(name: str, size: int, wide: int = 1) -> Group:
    index = np.arange(size * wide).reshape(size, wide)
    return Group(name, size, (Slice(f"{name}.weight", 0, index, "out"),))


def make_structure(sizes: list[int], macs: Terms, params: Terms | None = None, wide: int = 1) -> Structure:
    """Groups g0, g1, ... of these sizes; a cost is {group numbers of a term: its coefficient}."""
    variables = {number: number for number in range(len(sizes))}
    costs = {
        name: Cost([Polynomial(terms)], variables, len(sizes))
        for name, terms in {"macs": macs, "params": params or macs}.items()
    }
    groups = tuple(make_group(f"g{number}", size, wide) for number, size in enumerate(sizes))
    return Structure(groups, {}, costs, (), "made by hand")


def chain(sizes: list[int], work: int = 9) -> Structure:
    """A chain of layers: 3 -> sizes[0] -> ... -> 10 classes."""
    terms: dict[tuple[int, ...], int] = {(0,): 3 * work, (len(sizes) - 1,): 10}
    terms |= {(number, number + 1): work for number in range(len(sizes) - 1)}
    return make_structure(sizes, terms)


def random_scores(structure: Structure, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.size, generator=generator) for group in structure.prunable}


def share(structure: Structure, subnet: SubNetwork, cost: str = "macs") -> float:
    return achieved(structure, subnet)[cost]


def removed(subnet: SubNetwork, name: str) -> list[int]:
    return (~subnet.keep[name]).nonzero().flatten().tolist()


# Budget


def test_a_budget_is_a_fraction_or_a_count_of_each_cost() -> None:
    assert (Budget(macs=0.5).names, str(Budget(macs=0.5))) == (("macs",), "50.0% of the macs")
    assert (Budget(params=1000).allowed("params", 4000), str(Budget(params=1000))) == (1000, "1,000 params")
    assert Budget(macs=0.25).allowed("macs", 4000) == 1000
    assert Budget(macs=1.0).allowed("macs", 4000) == Budget(macs=1).allowed("macs", 4000) == 4000
    both = Budget(latency=0.5, params=0.6, target="onnxruntime")
    assert both.names == ("params", "latency")
    assert str(both) == "60.0% of the params and 50.0% of the latency on onnxruntime"


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("12.5 ms", 12.5), ("800us", 0.8), ("0.1 s", 100.0), ("2e-3 s", 2.0), ("5 \u00b5s", 0.005)],
)
def test_a_time_says_its_unit(text: str, milliseconds: float) -> None:
    assert Budget(latency=text).allowed("latency", 30.0) == pytest.approx(milliseconds)
    assert str(Budget(latency=text)) == f"{text} of latency on torch"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"macs": 0.0},
        {"macs": 1.5},
        {"macs": -3},
        {"macs": True},
        {"macs": "0.5"},
        {"latency": 12.5},
        {"latency": 12},
        {"latency": "12.5"},
        {"latency": "0 ms"},
        {"latency": "12 m"},
        {"latency": 0.5, "batch": 0},
        {"latency": 0.5, "threads": 1.5},
        {"latency": 0.5, "precision": "int8"},
    ],
)
def test_a_malformed_budget_is_an_error(values: dict) -> None:
    with pytest.raises(BudgetError, match=r"Expected"):
        Budget(**values)


def test_a_budget_of_more_than_the_whole_network_is_an_error() -> None:
    structure = chain([8, 8])
    with pytest.raises(BudgetError, match="at most the whole network"):
        select(structure, random_scores(structure), Budget(macs=10**9))


def test_a_cost_that_was_not_measured_is_an_error_and_one_that_was_is_used() -> None:
    structure = chain([16, 16])
    with pytest.raises(BudgetError, match="pass the model"):
        select(structure, random_scores(structure), Budget(latency=0.5))
    subnet = select(
        structure, random_scores(structure), Budget(latency=0.5), costs={"latency": structure.costs["macs"]}
    )
    assert subnet == select(structure, random_scores(structure), Budget(macs=0.5))


def test_all_costs_of_a_budget_hold() -> None:
    structure = make_structure([64, 64, 64], {(0, 1): 3, (1, 2): 5, (0,): 7}, {(0, 1): 1, (2,): 300})
    scores = random_scores(structure)
    for macs, params in ((0.5, 0.9), (0.9, 0.5), (0.6, 0.6)):
        subnet = select(structure, scores, Budget(macs=macs, params=params))
        kept = achieved(structure, subnet)
        assert kept["macs"] <= macs + 0.006 and kept["params"] <= params + 0.006
        assert kept["macs"] > macs - 0.01 or kept["params"] > params - 0.01  # and no more goes than must
    with pytest.raises(BudgetError, match=r"smallest sub-network has [\d,]+ params"):
        select(structure, scores, Budget(macs=0.9, params=0.05))


class Stairs:
    """A cost that grows with every eighth channel only, and is a tenth higher off the multiples of eight."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = np.array(weights)

    def per_group(self, counts: np.ndarray) -> np.ndarray:
        return self.weights * (-(-counts // 8) * 8) * np.where(counts % 8, 1.1, 1.0)

    def __call__(self, counts: np.ndarray) -> float:
        return float(self.per_group(counts).sum())

    def gradient(self, counts: np.ndarray) -> np.ndarray:
        return self.weights

    def sweep(self, counts: np.ndarray, group: int, values: np.ndarray) -> np.ndarray:
        rest = self.per_group(counts).sum() - self.per_group(counts)[group]
        return rest + self.weights[group] * (-(-values // 8) * 8) * np.where(values % 8, 1.1, 1.0)


@pytest.mark.parametrize("fraction", [0.4, 0.55, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_counts_settle_on_the_edges_of_the_steps(seed: int, fraction: float) -> None:
    structure = chain([64, 40, 96, 32])
    stairs = Stairs([1.0, 3.0, 0.5, 2.0])
    subnet = select(structure, random_scores(structure, seed), Budget(latency=fraction), costs={"latency": stairs})
    counts, full = subnet.counts(structure), np.array([64, 40, 96, 32])
    assert (counts % 8 == 0).all()
    assert abs(stairs(counts) / stairs(full) - fraction) < 0.02


class Slope(Stairs):
    """A cost of which a single channel of many is next to nothing."""

    def per_group(self, counts: np.ndarray) -> np.ndarray:
        return self.weights * counts

    def sweep(self, counts: np.ndarray, group: int, values: np.ndarray) -> np.ndarray:
        return self.per_group(counts).sum() + self.weights[group] * (values - counts[group])


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.8])
def test_channels_that_cost_little_one_by_one_go_together(fraction: float) -> None:
    structure = chain([1024, 1024])
    slope = Slope([1.0, 1.0])
    subnet = select(structure, random_scores(structure), Budget(latency=fraction), costs={"latency": slope})
    counts = subnet.counts(structure)
    assert abs(slope(counts) / 2048 - fraction) < 0.01 and (counts < 1024).all()


@pytest.mark.parametrize("fraction", [0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
def test_channels_of_a_cheap_group_go_one_by_one(fraction: float) -> None:
    structure = chain([1024, 16])
    slope = Slope([1.0, 0.2])
    ranks = {group.name: torch.arange(group.size) / group.size for group in structure.prunable}
    settings = {"costs": {"latency": slope}, "limit": 1.0, "limit_rate": 100, "cost_factor": False}
    counts = select(structure, ranks, Budget(latency=fraction), **settings).counts(structure)
    assert counts[1] / 16 == pytest.approx(counts[0] / 1024, abs=1 / 16)


def test_a_group_that_frees_next_to_nothing_stays_whole() -> None:
    structure = chain([1024, 16])
    slope = Slope([1.0, 0.01])
    subnet = select(structure, random_scores(structure), Budget(latency=0.5), costs={"latency": slope})
    assert list(subnet.counts(structure)) == [pytest.approx(512, abs=8), 16]


# The search


def test_the_worst_channels_of_all_groups_go() -> None:
    structure = make_structure([4, 4], {(0,): 1, (1,): 1})
    scores = {"g0": torch.tensor([8.0, 1.0, 7.0, 2.0]), "g1": torch.tensor([6.0, 5.0, 0.5, 4.0])}
    subnet = select(structure, scores, Budget(macs=5), limit=1.0, limit_rate=100, cost_factor=False)
    assert (removed(subnet, "g0"), removed(subnet, "g1")) == ([1, 3], [2])


def test_fractions_and_counts_in_macs_and_params() -> None:
    structure = make_structure([64, 64, 64], {(0, 1): 3, (1, 2): 5, (0,): 7}, {(0, 1): 1, (2,): 300})
    scores = random_scores(structure)
    assert share(structure, select(structure, scores, Budget(macs=0.5))) == pytest.approx(0.5, abs=0.01)
    assert share(structure, select(structure, scores, Budget(params=0.6)), "params") == pytest.approx(0.6, abs=0.01)
    count = structure.params() // 2
    assert structure.params(select(structure, scores, Budget(params=count))) == pytest.approx(count, rel=0.02)


def test_a_budget_of_everything_keeps_everything() -> None:
    structure = chain([8, 8])
    assert select(structure, random_scores(structure), Budget(macs=1.0)) == SubNetwork.full(structure)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    fraction=st.floats(0.2, 1.0),
    seed=st.integers(0, 1000),
    round_to=st.sampled_from([1, 2, 4, 8]),
    limit=st.floats(0.3, 1.0),
    work=st.integers(1, 1000),
)
@settings(max_examples=200, deadline=None)
def test_limits_rounding_and_closeness_hold_on_random_chains(
    sizes: list[int], fraction: float, seed: int, round_to: int, limit: float, work: int
) -> None:
    structure = chain(sizes, work)
    scores = random_scores(structure, seed)
    try:
        subnet = select(structure, scores, Budget(macs=fraction), limit=limit, round_to=round_to)
    except BudgetError:
        return
    counts = subnet.counts(structure)
    for size, count, group in zip(sizes, counts, structure.prunable, strict=True):
        assert count >= 1
        assert size - count <= min(limit * size + 1e-6, limit * (1 - math.exp(-0.1 * size)) * size + 0.5)
        assert count in (size, count // round_to * round_to) or size < round_to
        kept, gone = scores[group.name][subnet.keep[group.name]], scores[group.name][~subnet.keep[group.name]]
        assert not len(gone) or kept.min() >= gone.max()
    assert subnet == select(structure, scores, Budget(macs=fraction), limit=limit, round_to=round_to)


@pytest.mark.parametrize("seed", range(40))
def test_no_sub_network_within_the_budget_comes_closer_to_it_beyond_the_tolerance(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = random.choice([4, 8, 16, 24, 32, 64], size=4).tolist()
    round_to, fraction = int(random.choice([1, 4, 8])), float(random.uniform(0.4, 0.8))
    structure = chain(sizes)
    options = [[count for count in range(1, size + 1) if _allowed(size, count, round_to)] for size in sizes]
    if math.prod(map(len, options)) > 30_000:
        options = [counts[:: len(counts) // 8 + 1] for counts in options]
    full = structure.macs()
    shares = [structure.costs["macs"](np.array(counts)) / full for counts in itertools.product(*options)]
    try:
        subnet = select(structure, random_scores(structure, seed), Budget(macs=fraction), round_to=round_to)
    except BudgetError:
        assert min(shares) > fraction + 0.005
        return
    best = max(each for each in shares if each <= fraction + 0.005)
    assert share(structure, subnet) <= fraction + 0.005
    assert share(structure, subnet) >= min(best, fraction - 0.01) - 1e-12


def test_a_budget_is_not_exceeded_where_steps_are_coarse() -> None:
    structure = chain([64])
    assert share(structure, select(structure, random_scores(structure), Budget(macs=0.8), round_to=32)) == 0.5


def _allowed(size: int, count: int, round_to: int) -> bool:
    step = round_to if size >= round_to else 1
    limit = min(math.floor(0.75 * size), round(0.75 * (1 - math.exp(-0.1 * size)) * size))
    return size - count <= limit and (count == size or count % step == 0)


def test_a_coarse_step_that_overshoots_is_made_up_for_by_other_groups() -> None:
    structure = make_structure([32, 64, 64, 64], {(0, 0): 40, (1,): 200, (2,): 100, (3,): 50})
    scores = random_scores(structure)
    scores["g0"] *= 0.01  # its channels go first, 8 at a time, each step worth much
    for fraction in np.linspace(0.5, 0.95, 19):
        subnet = select(structure, scores, Budget(macs=float(fraction)), round_to=8)
        assert share(structure, subnet) == pytest.approx(fraction, abs=0.01), fraction


def test_less_budget_never_costs_more() -> None:
    structure = chain([16, 32, 64, 32])
    scores = random_scores(structure)
    costs = [structure.macs(select(structure, scores, Budget(macs=float(part)))) for part in np.linspace(0.3, 1.0, 50)]
    assert costs == sorted(costs)


def test_permuted_scores_give_the_permuted_sub_network() -> None:
    structure = chain([16, 32, 24])
    scores = random_scores(structure)
    orders = {name: torch.randperm(len(values)) for name, values in scores.items()}
    plain = select(structure, scores, Budget(macs=0.5))
    permuted = select(structure, {name: scores[name][order] for name, order in orders.items()}, Budget(macs=0.5))
    assert all(torch.equal(permuted.keep[name], plain.keep[name][order]) for name, order in orders.items())


def test_scores_times_a_constant_give_the_same_sub_network() -> None:
    structure = chain([16, 32, 24])
    scores = random_scores(structure)
    scaled = {name: 1024 * values for name, values in scores.items()}
    assert select(structure, scores, Budget(macs=0.5)) == select(structure, scaled, Budget(macs=0.5))


def test_ties_go_in_the_order_of_group_and_channel() -> None:
    structure = make_structure([4, 4], {(0,): 1, (1,): 1})
    scores = {"g0": torch.ones(4), "g1": torch.ones(4)}
    subnet = select(structure, scores, Budget(macs=5), limit=1.0, limit_rate=100, cost_factor=False)
    assert (removed(subnet, "g0"), removed(subnet, "g1")) == ([0, 1, 2], [])


def test_a_channel_of_infinite_score_stays() -> None:
    structure = chain([16, 16])
    scores = random_scores(structure)
    scores["g0"][:] = math.inf
    scores["g1"][3] = math.inf
    subnet = select(structure, scores, Budget(macs=0.6))
    assert subnet.keep["g0"].all()
    assert subnet.keep["g1"][3]


# The cost factor


def test_the_cost_factor_does_not_depend_on_the_scale_of_the_costs() -> None:
    scores = random_scores(chain([16, 32, 24]))
    small, large = (select(chain([16, 32, 24], work), scores, Budget(macs=0.5)) for work in (9, 9 * 49 * 1024))
    assert small.similarity(large) > 0.95  # the classifier's share alone differs
    base = {(0, 1): 3, (1, 2): 5, (0,): 7}
    a, b = (make_structure([16, 32, 24], {key: value * factor for key, value in base.items()}) for factor in (1, 12345))
    assert select(a, scores, Budget(macs=0.5)) == select(b, scores, Budget(macs=0.5))


def test_dear_channels_go_more_readily() -> None:
    structure = make_structure([64, 64], {(0,): 10, (1,): 1})
    same = {name: torch.linspace(1, 2, 64) for name in ("g0", "g1")}
    plain = select(structure, same, Budget(macs=0.7), cost_factor=False).counts(structure)
    weighted = select(structure, same, Budget(macs=0.7)).counts(structure)
    assert weighted[0] < weighted[1]
    assert plain[0] - plain[1] > weighted[0] - weighted[1]


def test_dear_channels_go_more_readily_where_scores_are_below_zero_too() -> None:
    structure = make_structure([64, 64], {(0,): 10, (1,): 1})
    below = {name: torch.linspace(-2, -1, 64) for name in ("g0", "g1")}
    counts = select(structure, below, Budget(macs=0.7)).counts(structure)
    assert counts[0] < counts[1]


def test_scores_are_a_mapping() -> None:
    with pytest.raises(CriterionError, match="mapping, group name -> tensor, but got None"):
        select(chain([8, 8]), None, Budget(macs=0.5))  # type: ignore[arg-type]


def test_one_dear_group_among_many_is_weighed_down_by_about_a_half_and_no_more() -> None:
    many = 200
    structure = make_structure([8] * many, {(number,): 1000 if number == 0 else 1 for number in range(many)})
    scores = {group.name: torch.full((8,), 1.0) for group in structure.prunable}
    scores["g0"][:] = 1.9  # times about one half is less than the others', 2.2 times is not
    assert not select(structure, scores, Budget(macs=0.9)).keep["g0"].all()
    scores["g0"][:] = 2.2
    assert select(structure, scores, Budget(macs=0.995), tolerance=0).counts(structure)[1:].min() < 8


# Rounding


def test_wide_channels_bring_their_width_into_the_rounding() -> None:
    heads = make_structure([12, 12], {(0,): 1, (1,): 1}, wide=64)
    counts = select(heads, random_scores(heads), Budget(macs=0.6), round_to=8).counts(heads)
    assert counts.sum() == pytest.approx(0.6 * 24, abs=1)
    assert (counts % 8 != 0).any()


def test_sizes_that_are_no_multiple_may_stay_whole() -> None:
    structure = make_structure([20], {(0,): 1})
    counts = {
        int(select(structure, random_scores(structure), Budget(macs=float(part)), round_to=8).counts(structure)[0])
        for part in np.linspace(0.4, 1.0, 30)
    }
    assert counts == {8, 16, 20}


# Errors


def test_an_unreachable_budget_names_the_smallest() -> None:
    structure = chain([16, 16])
    with pytest.raises(BudgetError, match=r"smallest sub-network has [\d,]+ macs \(\d") as error:
        select(structure, random_scores(structure), Budget(macs=0.01))
    smallest = int(str(error.value).split("smallest sub-network has ")[1].split(" ")[0].replace(",", ""))
    assert structure.macs(select(structure, random_scores(structure), Budget(macs=smallest))) == smallest


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({}, "ask for at least that, or raise limit."),
        ({"limit": 1.0, "round_to": 4}, "ask for at least that, or lower round_to."),
        ({"limit": 1.0}, "ask for at least that."),
    ],
)
def test_only_what_helps_an_unreachable_budget_is_named(settings: dict, advice: str) -> None:
    structure = chain([16, 16])
    with pytest.raises(BudgetError, match="Expected macs=1e-05 to be within reach") as error:
        select(structure, random_scores(structure), Budget(macs=0.00001), **settings)
    assert str(error.value).endswith(f"; {advice}")


def test_no_prunable_group_is_an_error() -> None:
    pinned = Group("g0", 4, (), pinned_by=Reason(Kind.ALL_TAKE_PART, "", "aten::_softmax", "head"))
    structure = Structure((pinned,), {}, {"macs": Cost([Polynomial.constant(5)], {}, 0)}, (), "made by hand")
    with pytest.raises(StructureError, match="every element takes part: aten::_softmax at head"):
        select(structure, {}, Budget(macs=0.5))


def test_scores_must_fit() -> None:
    structure = chain([8, 8])
    scores = random_scores(structure)
    with pytest.raises(StructureError, match="'g1' has none"):
        select(structure, {"g0": scores["g0"]}, Budget(macs=0.5))
    with pytest.raises(CriterionError, match=r"shape \(8,\) for group 'g1'"):
        select(structure, {**scores, "g1": torch.rand(9)}, Budget(macs=0.5))
    with pytest.raises(CriterionError, match="NaN"):
        select(structure, {**scores, "g1": torch.full((8,), math.nan)}, Budget(macs=0.5))
    for own, kind in (([1.0] * 8, "list"), (np.ones(8), "ndarray"), (torch.ones(8) + 1j, "complex64")):
        with pytest.raises(CriterionError, match=rf"'g1' has a (torch\.)?{kind}; pass torch\.as_tensor"):
            select(structure, {**scores, "g1": own}, Budget(macs=0.5))


@pytest.mark.parametrize(
    "setting",
    [
        {"limit": 0.0},
        {"limit": 1.1},
        {"limit_rate": 0},
        {"limit_rate": math.nan},
        {"tolerance": math.nan},
        {"round_to": 0},
        {"round_to": 1.5},
        {"min_keep": 0},
    ],
)
def test_settings_out_of_range_are_errors(setting: dict) -> None:
    structure = chain([8, 8])
    with pytest.raises(BudgetError, match="Expected"):
        select(structure, random_scores(structure), Budget(macs=0.5), **setting)


# By share of the channels


def test_a_ratio_per_group_removes_its_worst_channels() -> None:
    structure = chain([10, 7])
    scores = random_scores(structure)
    subnet = select_ratio(structure, scores, 0.7)
    assert subnet.counts(structure).tolist() == [3, 2]  # ceil(0.7 * 10) = 7 and ceil(0.7 * 7) = 5 go
    assert set(removed(subnet, "g0")) == set(scores["g0"].argsort()[:7].tolist())


def test_a_ratio_for_some_groups_leaves_the_others_whole() -> None:
    structure = chain([10, 8, 12])
    for scope in ("group", "global"):
        subnet = select_ratio(structure, random_scores(structure), 0.5, groups=["g1"], scope=scope)
        assert subnet.counts(structure).tolist() == [10, 4, 12]


def test_a_global_ratio_removes_the_worst_of_all() -> None:
    structure = chain([10, 10])
    scores = {"g0": torch.arange(10.0), "g1": 5 + torch.arange(10.0)}
    assert select_ratio(structure, scores, 0.5, scope="global").counts(structure).tolist() == [2, 8]
    scores = {"g0": torch.arange(10.0), "g1": 50 + torch.arange(10.0)}
    assert select_ratio(structure, scores, 0.5, scope="global").counts(structure).tolist() == [1, 9]


def test_a_ratio_is_rounded() -> None:
    structure = chain([64, 16, 4])
    assert select_ratio(structure, random_scores(structure), 0.4, round_to=8).counts(structure).tolist() == [40, 8, 2]


def test_a_ratio_never_removes_all() -> None:
    structure = chain([3, 1])
    assert select_ratio(structure, random_scores(structure), 0.99).counts(structure).tolist() == [1, 1]


def test_bad_ratios_are_errors() -> None:
    structure = chain([8, 8])
    for ratio in (-0.1, 1.0):
        with pytest.raises(BudgetError, match="ratio"):
            select_ratio(structure, random_scores(structure), ratio)
    with pytest.raises(BudgetError, match="scope"):
        select_ratio(structure, random_scores(structure), 0.5, scope="layer")  # type: ignore[arg-type]
    with pytest.raises(StructureError, match="g9"):
        select_ratio(structure, random_scores(structure), 0.5, groups=["g9"])
