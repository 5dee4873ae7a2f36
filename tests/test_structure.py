"""Frozen structures: where channels lie, what they cost, and sub-networks."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import icycle
from icycle.axes import Axis, Polynomial, leaves
from icycle.errors import StructureError, SubNetworkError
from icycle.structure import Cost, build
from icycle.structure._layout import Channels, Concat, Fixed, Layout, Outer, positions
from icycle.tracing import trace_model
from networks import IMAGE, TOKENS, Branches, Words


@pytest.fixture(scope="module")
def structure() -> icycle.Structure:
    return icycle.trace(Branches(), IMAGE)


def test_groups_are_found_by_name_and_listed_front_to_back(structure: icycle.Structure) -> None:
    assert [group.name for group in structure.prunable] == ["stem", "side", "mix", "hidden"]
    assert [group.size for group in structure.prunable] == [8, 6, 10, 12]
    assert structure["side"].size == 6
    assert set(structure.prunable) < set(structure.groups)
    with pytest.raises(StructureError, match=r"'nowhere'.*structure.groups"):
        structure["nowhere"]


def test_a_repr_is_one_line_and_a_str_the_table(structure: icycle.Structure) -> None:
    subnet = icycle.SubNetwork.random(structure, 0.5)
    assert repr(structure).startswith("Structure(4 prunable groups of 36 channels, ")
    assert repr(subnet) == str(subnet) == "SubNetwork(18 of 36 channels kept, in 4 groups)"
    assert "\n" not in repr(structure)
    assert len(str(structure).splitlines()) > len(structure.groups)


def test_members_are_all_the_tensors_that_hold_the_channels(structure: icycle.Structure) -> None:
    stem = {piece.parameter: (piece.dim, piece.role) for piece in structure["stem"].slices if piece.role != "in"}
    assert stem == {
        "stem.weight": (0, "out"),
        "stem.bias": (0, "shift"),
        "norm.weight": (0, "scale"),
        "norm.bias": (0, "shift"),
        "norm.running_mean": (0, "state"),
        "norm.running_var": (0, "variance"),
        "depthwise.weight": (0, "out"),
        "depthwise.bias": (0, "shift"),
        "point.weight": (0, "out"),
        "point.bias": (0, "shift"),
        "scale": (0, "scale"),
        "hint": (0, "scale"),
    }
    consumers = {(piece.parameter, piece.dim) for piece in structure["stem"].slices if piece.role == "in"}
    assert consumers == {("point.weight", 1), ("side.weight", 1), ("mix.weight", 1)}


def test_positions_behind_a_concatenation_and_a_flattening(structure: icycle.Structure) -> None:
    (behind,) = [piece for piece in structure["side"].slices if piece.parameter == "mix.weight"]
    assert behind.index.tolist() == [[8 + channel] for channel in range(6)]
    (flat,) = [piece for piece in structure["mix"].slices if piece.parameter == "hidden.weight"]
    assert flat.index.dtype == np.int64
    assert flat.index.tolist() == [list(range(16 * channel, 16 * channel + 16)) for channel in range(10)]


def test_a_structure_is_frozen(structure: icycle.Structure) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        structure.groups = ()  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        structure.prunable[0].size = 3  # type: ignore[misc]


def test_the_fingerprint_tells_architectures_apart(structure: icycle.Structure) -> None:
    assert structure.fingerprint == icycle.trace(Branches(), IMAGE[:1]).fingerprint
    assert structure.fingerprint != icycle.trace(Branches(16), IMAGE).fingerprint


# ---- layouts, against explicit lists ----


def owned(layout: Layout, group: int) -> list[set[int]]:
    """Which (group, channel) pairs each element needs, counted out element by element; here for one group."""
    if isinstance(layout, Fixed):
        return [set() for _ in range(layout.size)]
    if isinstance(layout, Channels):
        return [{channel} if layout.group == group else set() for channel in range(layout.size)]
    if isinstance(layout, Concat):
        return [element for part in layout.parts for element in owned(part, group)]
    found: list[set[int]] = [set()]
    for factor in layout.factors:
        found = [outer | inner for outer in found for inner in owned(factor, group)]
    return found


GROUPS = (3, 4)


@st.composite
def layouts(draw: st.DrawFn, depth: int = 2) -> Layout:
    """Layouts in which a group occurs at most once in a product, as traces give them."""
    kind = draw(st.sampled_from(["fixed", "channels", "concat", "outer"] if depth else ["fixed", "channels"]))
    if kind == "fixed":
        return Fixed(draw(st.integers(1, 3)))
    if kind == "channels":
        group = draw(st.integers(0, 1))
        return Channels(group, GROUPS[group])
    if kind == "concat":
        return Concat(tuple(draw(st.lists(layouts(depth - 1), min_size=2, max_size=3))))
    return Outer((Channels(0, GROUPS[0]), draw(st.sampled_from([Fixed(2), Channels(1, GROUPS[1])]))))


@given(layouts(), st.integers(0, 2**7 - 1))
def test_what_is_kept_of_a_layout(layout: Layout, bits: int) -> None:
    flat = np.array([bits >> place & 1 for place in range(7)], dtype=bool)
    keep = [flat[:3], flat[3:]]
    expected = [
        all(keep[0][channel] for channel in first) and all(keep[1][channel] for channel in second)
        for first, second in zip(owned(layout, 0), owned(layout, 1), strict=True)
    ]
    assert layout.kept(keep).tolist() == expected


@given(layouts(), st.integers(0, 1))
def test_positions_of_each_channel(layout: Layout, group: int) -> None:
    elements = owned(layout, group)
    index = positions(layout).get(group)
    if index is None:
        assert not any(elements)
    else:
        assert len(index) == GROUPS[group]
        for channel, row in enumerate(index):
            assert sorted(row) == [place for place, needs in enumerate(elements) if channel in needs]


# ---- costs ----


@given(st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(0, 2), max_size=3)), max_size=4), st.data())
def test_costs_and_their_gradients(terms: list[tuple[int, list[int]]], data: st.DataObject) -> None:
    axes = [Axis(9) for _ in range(3)]
    variables = {axis.created: number for number, axis in enumerate(axes)}
    cost = Cost(
        (Polynomial({tuple(sorted(axes[number].created for number in numbers)): factor}) for factor, numbers in terms),
        variables,
        3,
    )
    counts = np.array([data.draw(st.integers(1, 9)) for _ in range(3)])
    assert cost(counts) == sum(
        factor * int(np.prod([counts[number] for number in numbers])) for factor, numbers in terms
    )
    for group, slope in enumerate(cost.gradient(counts)):
        expected = 0
        for factor, numbers in terms:
            power = numbers.count(group)
            if power:
                others = int(np.prod([counts[number] for number in numbers if number != group]))
                expected += factor * others * power * int(counts[group]) ** (power - 1)
        assert slope == expected


@pytest.mark.parametrize(("build", "inputs"), [(Branches, IMAGE), (Words, TOKENS)])
def test_parameters_are_counted_exactly_and_tied_ones_once(build: type[nn.Module], inputs: torch.Tensor) -> None:
    model = build()
    assert icycle.trace(model, inputs).params() == sum(parameter.numel() for parameter in model.parameters())


def test_macs_grow_with_the_batch(structure: icycle.Structure) -> None:
    assert structure.macs() == 2 * icycle.trace(Branches(), IMAGE[:1]).macs()
    assert structure.activation_bytes() == 2 * icycle.trace(Branches(), IMAGE[:1]).activation_bytes()


def test_activation_bytes_of_a_small_network() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    structure = icycle.trace(model, torch.randn(2, 3, 5, 5))
    assert structure.activation_bytes() == 4 * 2 * 25 * (8 + 8 + 4)


# ---- sub-networks ----


def test_a_random_sub_network_removes_the_share_of_every_group(structure: icycle.Structure) -> None:
    subnet = icycle.SubNetwork.random(structure, 0.3, seed=1)
    assert subnet.counts(structure).tolist() == [8 - 2, 6 - 1, 10 - 3, 12 - 3]
    assert subnet == icycle.SubNetwork.random(structure, 0.3, seed=1)
    assert subnet != icycle.SubNetwork.random(structure, 0.3, seed=2)
    assert icycle.SubNetwork.random(structure, 0.0) == icycle.SubNetwork.full(structure)
    for ratio in (-0.1, 1.0, 2):
        with pytest.raises(SubNetworkError, match="ratio"):
            icycle.SubNetwork.random(structure, ratio)


def test_similarity_is_the_mean_jaccard_index() -> None:
    a = icycle.SubNetwork({"one": torch.tensor([True, True, False, False]), "two": torch.tensor([True, True])})
    b = icycle.SubNetwork({"one": torch.tensor([False, True, True, False]), "two": torch.tensor([True, True])})
    assert a.similarity(b) == b.similarity(a) == pytest.approx((1 / 3 + 1) / 2)
    assert a.similarity(a) == 1.0
    with pytest.raises(SubNetworkError, match="names differ"):
        a.similarity(icycle.SubNetwork({"one": torch.tensor([True])}))


def test_masks_of_the_wrong_kind_are_refused(structure: icycle.Structure) -> None:
    with pytest.raises(SubNetworkError, match="bool tensor"):
        icycle.SubNetwork({"stem": torch.ones(8)})
    whole = dict(icycle.SubNetwork.full(structure).keep)
    for keep, message in (
        ({**whole, "stem": torch.ones(9, dtype=torch.bool)}, "8 channels"),
        ({**whole, "stem": torch.zeros(8, dtype=torch.bool)}, "at least one channel"),
        ({name: kept for name, kept in whole.items() if name != "stem"}, "'stem'"),
        ({**whole, "more": torch.ones(2, dtype=torch.bool)}, "'more'"),
    ):
        with pytest.raises(SubNetworkError, match=message):
            icycle.SubNetwork(keep).counts(structure)


def test_a_sub_network_does_not_change_with_the_tensors_it_was_made_of(structure: icycle.Structure) -> None:
    kept = torch.ones(8, dtype=torch.bool)
    subnet = icycle.SubNetwork({"stem": kept})
    kept[0] = False
    assert subnet.keep["stem"].all()
    with pytest.raises(TypeError):
        subnet.keep["stem"] = kept  # type: ignore[index]


# ---- operations ----


def test_operations_have_sizes_in_kept_counts_and_keep_their_other_arguments() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    structure = icycle.trace(model, torch.randn(2, 3, 16, 16))
    first, norm, relu, last = structure.operations
    assert [operation.name.split(".")[1] for operation in structure.operations] == [
        "convolution", "native_batch_norm", "relu", "convolution",
    ]  # fmt: skip
    image, weight = first.arguments[:2]
    counts = {0: 5}
    assert [size(counts) for size in image.sizes] == [2, 3, 16, 16]
    assert [size(counts) for size in weight.sizes] == [5, 3, 3, 3]
    assert [size(counts) for size in first.outputs[0]] == [2, 5, 8, 8]
    assert first.arguments[3:5] == ((2, 2), (1, 1))
    assert last.arguments[1].sizes[1](counts) == 5 and last.outputs[0][1](counts) == 4
    assert image.dtype == "float32" and image.order == (0, 1, 2, 3)
    assert norm.outputs[0] == relu.outputs[0] == first.outputs[0]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda subnet: pickle.loads(pickle.dumps(subnet))])
def test_sub_networks_are_copied_and_pickled(structure: icycle.Structure, duplicate: object) -> None:
    subnet = icycle.SubNetwork.random(structure, 0.5)
    twin = duplicate(subnet)  # type: ignore[operator]
    assert twin == subnet
    assert twin.masks(structure)[0].tolist() == subnet.masks(structure)[0].tolist()


def test_masks_are_not_changed_from_outside(structure: icycle.Structure) -> None:
    subnet = icycle.SubNetwork.full(structure)
    for masks in (subnet.keep.values(), [torch.from_numpy(mask) for mask in subnet.masks(structure)]):
        for mask in masks:
            mask[:] = False
    subnet.keep["stem"][0] = False
    dict(subnet.keep)["stem"].zero_()
    assert subnet == icycle.SubNetwork.full(structure)
    with pytest.raises(TypeError):
        subnet.keep["stem"] = torch.ones(8, dtype=torch.bool)  # type: ignore[index]


def test_building_reads_a_trace_and_changes_nothing() -> None:
    found = trace_model(Words(), TOKENS)
    axes = [axis for dims in found.dims.values() for dim in dims for axis in leaves(dim)]
    before = [(axis.created, axis.link, axis.pinned, axis.inexact) for axis in axes]
    first = build(found)
    assert [(axis.created, axis.link, axis.pinned, axis.inexact) for axis in axes] == before
    assert build(found).fingerprint == first.fingerprint
