"""Every criterion against its definition written out in plain loops."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.prune import identity

import icycle
from icycle import saliency
from icycle.errors import CriterionError, StructureError
from icycle.structure import Group, Slice, Structure


class Branches(nn.Module):
    """Depthwise and transposed convolutions, a concatenation, a flattening and a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.left = nn.Conv2d(6, 4, 1)
        self.right = nn.ConvTranspose2d(6, 5, 3, padding=1)
        self.join = nn.Conv2d(9, 6, 1, bias=False)
        self.hidden = nn.Linear(6 * 4 * 4, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        y = self.depthwise(x)
        y = torch.relu(torch.cat([self.left(y), self.right(y)], dim=1))
        x = x + self.join(y)
        return self.head(torch.relu(self.hidden(x.flatten(1))))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Branches().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture
def structure(model: nn.Module) -> Structure:
    return icycle.trace(model, torch.randn(1, 3, 4, 4, dtype=torch.float64))


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 3, 4, 4, generator=generator, dtype=torch.float64), torch.arange(4) % 3) for _ in range(3)]


def slices_of(tensor: torch.Tensor, piece: Slice) -> Iterator[torch.Tensor]:
    """The flat slice of each channel, cut out one position after the other."""
    for positions in piece.index:
        yield torch.cat([tensor.select(piece.dim, int(position)).flatten() for position in positions])


def oracle(model, structure, roles, value, tensors=None):  # type: ignore[no-untyped-def]
    """Mean over members of value(list of slices)."""
    tensors = tensors or dict(model.named_parameters())
    expected = {}
    for group in structure.prunable:
        values = [
            value([part.detach().double() for part in slices_of(tensors[piece.parameter], piece)])
            for piece in group.slices
            if piece.role in roles
        ]
        expected[group.name] = torch.stack(values).mean(dim=0) if values else torch.full((group.size,), math.inf)
    return expected


def each(value):  # type: ignore[no-untyped-def]
    return lambda slices: torch.stack([torch.as_tensor(value(part), dtype=torch.float64) for part in slices])


def assert_same(scores: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol: float = 1e-10) -> None:
    assert scores.keys() == expected.keys()
    for name, values in scores.items():
        torch.testing.assert_close(values, expected[name].to(values.dtype), rtol=rtol, atol=1e-12)


WEIGHTS = ("out", "in", "scale")


def test_the_example_has_what_the_tests_are_about(structure: Structure) -> None:
    pieces = [(group, piece) for group in structure.prunable for piece in group.slices]
    assert {piece.role for _, piece in pieces} >= {"out", "in", "scale", "shift", "state"}
    assert any(piece.index.shape[1] == 16 for _, piece in pieces)  # the flattening
    assert sum(piece.parameter == "join.weight" and piece.dim == 1 for _, piece in pieces) == 2  # the concatenation
    assert any(piece.parameter == "depthwise.weight" for _, piece in pieces)


def test_group_norm(model: nn.Module, structure: Structure) -> None:
    expected = oracle(model, structure, WEIGHTS, each(lambda part: part.square().sum() / math.sqrt(len(part))))
    assert_same(saliency.group_norm(model, structure), expected)


def test_l1_and_l2_read_the_filters(model: nn.Module, structure: Structure) -> None:
    assert_same(saliency.l1(model, structure), oracle(model, structure, ("out",), each(lambda part: part.abs().mean())))
    root = each(lambda part: part.square().mean().sqrt())
    assert_same(saliency.l2(model, structure), oracle(model, structure, ("out",), root))


def test_bn_scale_leaves_groups_without_normalisation_whole(model: nn.Module, structure: Structure) -> None:
    scores = saliency.bn_scale(model, structure)
    assert_same(scores, oracle(model, structure, ("scale",), each(lambda part: part.abs().mean())))
    assert torch.isinf(scores["hidden"]).all()
    assert torch.isfinite(scores["stem"]).all()


def test_geometric_median(model: nn.Module, structure: Structure) -> None:
    def value(slices: list[torch.Tensor]) -> torch.Tensor:
        rows = torch.stack(slices)
        return torch.stack([(rows - row).norm(dim=1).mean() for row in rows]) / math.sqrt(rows.shape[1])

    assert_same(saliency.geometric_median(model, structure), oracle(model, structure, ("out",), value), rtol=1e-5)


def test_geometric_median_spares_the_odd_one_out(model: nn.Module, structure: Structure) -> None:
    with torch.no_grad():
        model.hidden.weight[:] = 1.0  # type: ignore[union-attr, operator]
        model.hidden.weight[2] = -3.0  # type: ignore[union-attr, operator]
    assert saliency.geometric_median(model, structure)["hidden"].argmax() == 2


def test_random_is_uniform_and_reproducible(model: nn.Module, structure: Structure) -> None:
    first, again, other = (saliency.random(model, structure, seed=seed) for seed in (1, 1, 2))
    assert_same(first, again)
    assert any(not torch.equal(values, other[name]) for name, values in first.items())
    assert all(
        values.shape == (structure[name].size,) and 0 <= values.min() <= values.max() < 1
        for name, values in first.items()
    )


def test_taylor(model: nn.Module, structure: Structure, batches: list) -> None:
    model.train()
    model.norm.eval()  # type: ignore[union-attr]
    model.stem.weight.requires_grad_(False)  # type: ignore[union-attr]
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    scores = saliency.taylor(model, structure, loader=batches, loss=cross_entropy, batches=2)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["stem.weight"]
    assert all(parameter.grad is None for parameter in model.parameters())

    model.eval().requires_grad_(True)
    totals: dict[str, torch.Tensor] = {}
    for inputs, targets in batches[:2]:
        model.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        products = {name: parameter.detach() * parameter.grad for name, parameter in model.named_parameters()}
        for name, value in oracle(model, structure, WEIGHTS, each(lambda part: part.sum() ** 2), products).items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value / 2
    assert_same(scores, totals)


def read_by(model: nn.Module, path: str, inputs: torch.Tensor) -> torch.Tensor:
    """(samples, channels): the pooled magnitude of what a module reads."""
    found = []
    handle = model.get_submodule(path).register_forward_hook(lambda module, args, output: found.append(args[0]))
    with torch.no_grad():
        model(inputs)
    handle.remove()
    return found[0].abs().flatten(2).mean(2) if found[0].dim() == 4 else found[0].abs()


def test_mean_activation(model: nn.Module, structure: Structure, batches: list) -> None:
    model.train()
    scores = saliency.mean_activation(model, structure, loader=batches, batches=3)
    assert model.training
    model.eval()
    inputs = torch.cat([batch[0] for batch in batches])
    readers = {"stem": ("left", "right", "hidden"), "left": ("join",), "right": ("join",), "hidden": ("head",)}
    assert readers.keys() == scores.keys()
    for name, paths in readers.items():
        pieces = {piece.parameter.rpartition(".")[0]: piece for piece in structure[name].slices if piece.role == "in"}
        read = [
            read_by(model, path, inputs).mean(dim=0)[torch.tensor(pieces[path].index)].mean(dim=1) for path in paths
        ]
        torch.testing.assert_close(scores[name], torch.stack(read).mean(dim=0))


@pytest.mark.parametrize("criterion", [saliency.mean_activation, saliency.activation_entropy])
def test_a_channel_that_its_norm_silences_scores_least(criterion: Callable[..., saliency.Scores]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1))
    with torch.no_grad():
        model[0].weight[3] *= 100  # loud before its norm
        model[1].weight[3] = 0
    data = torch.randn(4, 3, 6, 6)
    scores = criterion(model, icycle.trace(model, data), loader=[data])["0"]
    assert scores[3] == 0 and scores.argmin() == 3


def test_mean_activation_averages_over_the_positions_of_a_channel() -> None:
    """A flattened convolution has one channel per position block; a packed projection, several positions per head."""
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    index = np.arange(6).reshape(2, 3)
    group = Group("heads", 2, (Slice("0.weight", 0, index, "out"), Slice("2.weight", 1, index, "in")))
    structure = Structure((group,), {}, {}, (), "made by hand")
    data = torch.randn(5, 3)
    scores = saliency.mean_activation(model, structure, loader=[(data, None)])
    expected = model[0](data).relu().mean(dim=0).view(2, 3).mean(dim=1).detach()
    torch.testing.assert_close(scores["heads"], expected)
    norms = saliency.group_norm(model, structure)["heads"]
    first, second = model[0].weight.view(2, 9), model[2].weight.view(2, 2, 3).transpose(0, 1).reshape(2, 6)
    expected = (first.square().sum(1) / 3 + second.square().sum(1) / math.sqrt(6)) / 2
    torch.testing.assert_close(norms, expected.detach())


def entropy_of(values: torch.Tensor, top: float) -> float:
    counts = np.histogram(values.numpy(), bins=20, range=(0, top))[0]
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def test_activation_entropy(model: nn.Module, structure: Structure, batches: list) -> None:
    model.eval()
    scores = saliency.activation_entropy(model, structure, loader=batches, batches=3)
    pooled = [read_by(model, "head", inputs) for inputs, _ in batches]
    for channel in range(7):
        values = [part[:, channel] for part in pooled]
        top = 0.0
        for part in values:  # the first largest value above zero, doubled until nothing lies above it
            top = top or float(part.max())
            while part.max() > top:
                top *= 2
        expected = entropy_of(torch.cat(values), top or 1.0)
        assert scores["hidden"][channel] == pytest.approx(expected, abs=1e-9)


def test_a_silent_channel_has_no_entropy(model: nn.Module, structure: Structure, batches: list) -> None:
    with torch.no_grad():
        model.hidden.bias[3] = -1e6  # type: ignore[union-attr, operator]
    scores = saliency.activation_entropy(model, structure, loader=batches)["hidden"]
    assert scores[3] == 0
    assert scores.max() > 0.5


def test_permuting_channels_permutes_scores(model: nn.Module, structure: Structure) -> None:
    before = {
        name: criterion.function(model, structure)
        for name, criterion in saliency.CRITERIA.items()
        if not criterion.inputs
    }
    order = torch.tensor([3, 1, 6, 0, 5, 2, 4])
    with torch.no_grad():
        model.hidden.weight[:] = model.hidden.weight[order]  # type: ignore[union-attr, operator, index]
        model.head.weight[:] = model.head.weight[:, order]  # type: ignore[union-attr, operator, index]
    for name, scores in before.items():
        after = saliency.score(name, model, structure)
        torch.testing.assert_close(after["hidden"], scores["hidden"][order])


def test_shifts_and_running_statistics_do_not_count(model: nn.Module, structure: Structure) -> None:
    before = saliency.group_norm(model, structure)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("bias") or "running" in name:
                tensor.mul_(7)
    assert_same(saliency.group_norm(model, structure), before)


def test_half_precision_is_summed_up_in_single(model: nn.Module, structure: Structure) -> None:
    exact = saliency.group_norm(model, structure)
    half = saliency.group_norm(model.bfloat16(), structure)
    for name, values in half.items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), exact[name], rtol=0.02, atol=1e-3)


class Tokens(nn.Module):
    """Two layers over (samples, tokens, features), or (tokens, samples, features), as convolutions or not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.kind = nn.Linear(5, 8), nn.Linear(8, 3), kind
        if kind == "convolutions":
            layers = self.first, self.second
            self.first, self.second = (nn.Conv1d(each.in_features, each.out_features, 1) for each in layers)
            for new, old in zip((self.first, self.second), layers, strict=True):
                new.weight.data, new.bias.data = old.weight.data[..., None], old.bias.data

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dims = {"linear": (0, 0), "convolutions": (1, 2), "tokens first": (0, 1)}[self.kind]
        return self.second(torch.relu(self.first(x.transpose(*dims)))).transpose(*dims)


@pytest.mark.parametrize("kind", ["linear", "convolutions", "tokens first"])
def test_entropy_counts_samples_however_their_tokens_are_read(kind: str) -> None:
    model, reference, x = Tokens(kind).double(), Tokens("linear").double(), torch.randn(20, 9, 5, dtype=torch.float64)
    scores = saliency.activation_entropy(model, icycle.trace(model, x), loader=[x])["first"]
    pooled = torch.relu(reference.first(x)).mean(dim=1).detach()
    expected = [entropy_of(pooled[:, channel], float(pooled[:, channel].max())) for channel in range(8)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("criterion", [saliency.mean_activation, saliency.reconstruction])
def test_in_mixed_precision_scores_are_as_without(criterion: Callable[..., saliency.Scores]) -> None:
    model, x = Tokens("linear"), torch.randn(20, 9, 5)
    structure = icycle.trace(model, x)
    expected = criterion(model, structure, loader=[x])
    with torch.autocast("cpu", torch.bfloat16):
        found = criterion(model, structure, loader=[x])
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-3)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("name", ["mean_activation", "activation_entropy", "reconstruction"])
def test_what_reads_the_heads_of_an_attention_is_seen(name: str) -> None:
    """Although torch computes it in one step where it can."""
    model, x = Attends().eval(), torch.randn(6, 5, 8)
    structure = icycle.trace(model, x)
    assert saliency.score(name, model, structure, loader=[x])["attention"].isfinite().all()


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("name", ["mean_activation", "activation_entropy", "reconstruction"])
def test_activations_that_are_not_finite_are_said_to_be(name: str, value: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    structure = icycle.trace(model, torch.randn(2, 3))
    with pytest.raises(CriterionError, match=r"finite .*activations .*'2\.weight'"):
        saliency.score(name, model, structure, loader=[torch.full((5, 3), value)])


def test_taylor_says_what_is_not_finite(model: nn.Module, structure: Structure, batches: list) -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(outputs, targets) * math.nan

    def steep(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - outputs.detach()).abs().sum().sqrt()  # zero, where the root has no gradient

    for function, words in ((loss, "a finite loss on batch 0"), (steep, "a finite gradient of the loss on batch 0")):
        with pytest.raises(CriterionError, match=words):
            saliency.taylor(model, structure, loader=batches, loss=function)


# Registry


def test_every_criterion_is_registered_with_what_it_needs() -> None:
    needs = {name: criterion.inputs for name, criterion in saliency.CRITERIA.items()}
    assert needs == {
        "group_norm": (),
        "l1": (),
        "l2": (),
        "bn_scale": (),
        "geometric_median": (),
        "random": ("seed",),
        "taylor": ("loader", "loss", "batches"),
        "mean_activation": ("loader", "batches"),
        "activation_entropy": ("loader", "batches"),
        "reconstruction": ("loader", "batches"),
    }
    assert all(
        "Source" in (criterion.function.__doc__ or "")
        for name, criterion in saliency.CRITERIA.items()
        if name != "random"
    )


def test_scores_by_name(model: nn.Module, structure: Structure, batches: list) -> None:
    for name in saliency.CRITERIA:
        scores = saliency.score(name, model, structure, loader=batches, loss=cross_entropy, batches=2, seed=3)
        assert all(scores[group.name].shape == (group.size,) for group in structure.prunable)
    assert_same(saliency.score("random", model, structure, seed=3), saliency.random(model, structure, seed=3))


def test_what_is_missing_is_said_before_anything_runs() -> None:
    with pytest.raises(CriterionError, match=r"loader is None; pass batches"):
        saliency.check("mean_activation")
    with pytest.raises(CriterionError, match="loss is None"):
        saliency.check("taylor", loader=[])
    with pytest.raises(CriterionError, match="did you mean 'group_norm'"):
        saliency.check("groupnorm")
    assert saliency.check("l1").name == "l1"


@pytest.mark.parametrize(
    ("made", "words"), [("None", "a mapping .* got NoneType"), ("{}['x']", "it gave KeyError: 'x'")]
)
def test_a_criterion_of_ones_own_that_gives_no_scores_is_named(
    made: str, words: str, model: nn.Module, structure: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_scores.py").write_text(f"def none(model, structure):\n    return {made}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "acme_scores", raising=False)
    with pytest.raises(CriterionError, match=f"Expected 'acme_scores:none' to return .*{words}"):
        saliency.score("acme_scores:none", model, structure)


def test_the_functions_say_what_is_missing_themselves(model: nn.Module, structure: Structure, batches: list) -> None:
    with pytest.raises(CriterionError, match="loader is None"):
        saliency.mean_activation(model, structure)
    with pytest.raises(CriterionError, match="loss is None"):
        saliency.taylor(model, structure, loader=batches)
    with pytest.raises(CriterionError, match="empty"):
        saliency.activation_entropy(model, structure, loader=[])
    with pytest.raises(CriterionError, match="batches >= 1"):
        saliency.mean_activation(model, structure, loader=batches, batches=0)
    with pytest.raises(CriterionError, match="no gradient reaches"):
        saliency.taylor(model, structure, loader=batches, loss=lambda out, _: torch.zeros((), requires_grad=True) + 0)


def test_weights_that_are_not_numbers_are_an_error(model: nn.Module, structure: Structure) -> None:
    with torch.no_grad():
        model.hidden.weight[0, 0] = math.nan  # type: ignore[union-attr, operator]
    with pytest.raises(CriterionError, match="'stem'"):
        saliency.group_norm(model, structure)


def test_a_criterion_that_can_see_no_group_is_an_error(structure: Structure) -> None:
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(CriterionError, match="another one"):
        saliency.bn_scale(plain, icycle.trace(plain, torch.randn(1, 3)))


def test_a_structure_of_another_model_is_an_error(model: nn.Module, structure: Structure) -> None:
    with pytest.raises(StructureError, match="does not have"):
        saliency.group_norm(nn.Linear(3, 3), structure)
    model.hidden = nn.Linear(96, 2).double()
    with pytest.raises(StructureError, match="Trace it again"):
        saliency.group_norm(model, structure)


def test_batches_may_be_mappings() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

        def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.inner(pixels)
            return {"logits": logits, "loss": cross_entropy(logits, labels)}

    model = Keywords()
    batch = {"pixels": torch.randn(2, 3), "labels": torch.tensor([0, 1])}
    structure = icycle.trace(model, batch)
    scores = saliency.taylor(model, structure, loader=[batch], loss=lambda outputs, _: outputs["loss"])
    assert scores["inner.0"].shape == (4,)
    assert saliency.mean_activation(model, structure, loader=[batch])["inner.0"].shape == (4,)


def test_a_parametrised_weight_is_seen_to_read() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.utils.parametrizations.weight_norm(model[2])
    data = torch.randn(5, 3)
    scores = saliency.mean_activation(model, icycle.trace(model, data), loader=[data])
    torch.testing.assert_close(scores["0"], model[0](data).relu().mean(dim=0).detach())


class Experts(nn.Module):
    """The first two samples of a batch are for one expert, whatever else there is for another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.few, self.rest = nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return torch.cat([self.few(x[:2]), self.rest(x[2:])])


@pytest.mark.parametrize("name", ["mean_activation", "activation_entropy", "reconstruction", "taylor"])
@pytest.mark.parametrize("sizes", [(2,), (2, 20), (20, 2)])
def test_an_expert_to_which_a_batch_brings_nothing_does_not_count(name: str, sizes: tuple[int, ...]) -> None:
    model, x = Experts(), torch.randn(20, 3)
    structure = icycle.trace(model, x[:4])
    loader = [(x[:size], torch.zeros(size, dtype=torch.long)) for size in sizes]
    scores = saliency.score(name, model, structure, loader=loader, loss=cross_entropy)
    assert all(bool(values.isfinite().all()) for values in scores.values())


def test_scales_that_are_buffers_count_too() -> None:
    frozen_norm = pytest.importorskip("torchvision.ops").FrozenBatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), frozen_norm, nn.ReLU(), nn.Conv2d(4, 2, 1))
    index = np.arange(4)[:, None]
    pieces = (Slice("0.weight", 0, index, "out"), Slice("1.weight", 0, index, "scale"))
    structure = Structure((Group("0", 4, pieces),), {}, {}, (), "made by hand")
    expected = (model[0].weight.flatten(1).square().sum(1) / math.sqrt(3) + 1) / 2
    torch.testing.assert_close(saliency.group_norm(model, structure)["0"], expected.detach())
    batch = (torch.randn(2, 3, 4, 4), torch.zeros(2))
    scores = saliency.taylor(model, structure, loader=[batch], loss=lambda outputs, _: outputs.square().mean())
    assert scores["0"].min() > 0
    assert not frozen_norm.weight.requires_grad


class Standardised(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, axes = self.weight, (1, 2, 3)
        own = (weight - weight.mean(axes, keepdim=True)) / (weight.std(axes, keepdim=True) + 1e-5)
        return self._conv_forward(x, own, self.bias)


def normed(norm: nn.Module, layer: type[nn.Conv2d] = nn.Conv2d) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), norm, nn.ReLU(), layer(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))


def test_what_is_computed_from_weights_alone_scales_nothing() -> None:
    x, norm = torch.randn(2, 3, 5, 5), nn.BatchNorm2d(8)
    nn.init.uniform_(norm.weight)
    norm.running_var = torch.rand(8) * 20 + 1
    plain = normed(norm).eval()
    frozen = normed(pytest.importorskip("torchvision.ops").FrozenBatchNorm2d(8))
    frozen.load_state_dict(plain.state_dict(), strict=False)
    masked = copy.deepcopy(plain)
    identity(masked[3], "weight")
    expected = saliency.group_norm(plain, icycle.trace(plain, x))
    for same in (frozen, masked):
        for found, right in zip(
            saliency.group_norm(same, icycle.trace(same, x)).values(), expected.values(), strict=True
        ):
            torch.testing.assert_close(found, right)
    computed = normed(nn.Identity(), Standardised).eval()
    structure = icycle.trace(computed, x)
    roles = {piece.role for group in structure.prunable for piece in group.slices if piece.parameter == "3.weight"}
    assert roles == {"out"}
    assert all(bool(values.isfinite().all()) for values in saliency.l1(computed, structure).values())


def test_the_spread_keeps_both_sides_of_the_cut() -> None:
    scores = {
        "a": torch.arange(200.0).flip(0),
        "b": torch.tensor([3.0, math.inf, 1.0]),
        "c": torch.tensor([0.123456, 2.0]),
    }
    keep = {name: values > values.median() for name, values in scores.items()}
    keep["c"][:] = True
    a, b, c = saliency.spread(scores, icycle.SubNetwork(keep))
    assert (a["removed"][0], a["removed"][-1], a["kept"][0], a["kept"][-1]) == (0, 99, 100, 199)
    assert len(a["kept"]) == len(a["removed"]) == 32 and a["kept"] == sorted(a["kept"])
    assert (a["size"], a["left"]) == (200, 100)
    assert b == {"name": "b", "size": 3, "left": 1, "kept": [], "removed": [1.0, 3.0]}
    assert c == {"name": "c", "size": 2, "left": 2, "kept": [0.1235, 2.0], "removed": []}
