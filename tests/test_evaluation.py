"""Evaluation and recalibration: against brute force, and as they were where they fail."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import icycle
from icycle.errors import DataError, TrainingError
from icycle.training import Supervised, evaluate, logits_of, measure, recalibrate
from small_training import Batches, assert_equal, batches, network, tensors


class Shares(Supervised):
    """The share of right answers among those of one class, by default of one that no example has."""

    metric = "share"
    label: int = 7

    def loss_of(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(outputs, targets)

    def metrics(self, model: nn.Module, loader: Iterable[Any]) -> dict[str, float]:
        of_class = [(model(inputs).argmax(1) == self.label)[labels == self.label] for inputs, labels in loader]
        return {"share": 100 * sum(int(right.sum()) for right in of_class) / sum(len(right) for right in of_class)}


class Constant(Shares):
    def metrics(self, model: nn.Module, loader: Iterable[Any]) -> dict[str, float]:
        return {"share": 50.0}


def test_metrics_that_divide_by_zero_or_read_nothing_are_told_apart_from_an_empty_loader() -> None:
    with pytest.raises(TrainingError, match=r"'Shares' .* divided by zero on 15 examples"):
        measure(network(), batches(count=3, size=5), Shares())
    with pytest.raises(DataError, match="the loader gave none"):
        measure(network(), [], Shares())
    with pytest.raises(TrainingError, match="'Constant' to read the loader"):
        measure(network(), batches(), Constant())
    assert measure(network(), batches(), Shares(label=1))["share"] >= 0


def test_accuracy_is_the_share_of_right_answers_in_evaluation_mode() -> None:
    model, data = network().train(), batches(count=3, size=5)
    accuracy = evaluate(model, data)
    assert all(module.training for module in model.modules())
    model.eval()
    right = sum(int((model(inputs).argmax(1) == labels).sum()) for inputs, labels in data)
    assert accuracy == pytest.approx(100 * right / 15)


def test_an_empty_loader_is_an_error() -> None:
    with pytest.raises(DataError, match="split"):
        evaluate(network(), [])
    model = network()
    before = tensors(model)
    with pytest.raises(DataError, match="recalibrate"):
        recalibrate(model, [])
    assert_equal(tensors(model), before)


class Wrapped(nn.Module):
    def __init__(self, wrap: object) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: torch.Tensor) -> object:
        return self.wrap(x)  # type: ignore[operator]


class WithLogits:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x, x[:0]),
        lambda x: [x],
        lambda x: {"aux": x[:0], "logits": x},
        lambda x: {"aux": x[:0], "out": x},
        lambda x: {"scores": x},
        WithLogits,
        lambda x: (WithLogits(x),),
    ],
)
def test_logits_are_found_in_what_models_return(wrap: object) -> None:
    x = torch.randn(2, 3)
    assert torch.equal(logits_of(Wrapped(wrap)(x)), x)


@pytest.mark.parametrize("output", [None, (), {}, "text", 3])
def test_an_output_without_logits_is_an_error(output: object) -> None:
    with pytest.raises(TrainingError, match="logits"):
        logits_of(output)


def test_recalibration_gives_each_batch_the_same_weight() -> None:
    data = batches(count=5)
    model = network().train()
    model[1].running_mean.fill_(99.0)
    recalibrate(model, data, batches=3)
    means = torch.stack([model[0](inputs).mean(dim=(0, 2, 3)) for inputs, _ in data[:3]])
    variances = torch.stack([model[0](inputs).var(dim=(0, 2, 3)) for inputs, _ in data[:3]])
    assert torch.allclose(model[1].running_mean, means.mean(dim=0), atol=1e-6)
    assert torch.allclose(model[1].running_var, variances.mean(dim=0), atol=1e-6)
    assert model[1].momentum == 0.1
    assert all(module.training for module in model.modules())


class Domains(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(2))

    def forward(self, x: torch.Tensor, domain: int = 0) -> torch.Tensor:
        return self.norms[domain](x)


def test_a_norm_that_no_batch_comes_to_keeps_its_statistics() -> None:
    model = Domains()
    model(torch.randn(64, 4) + 3, 1)
    before = tensors(model.norms[1])
    recalibrate(model, [torch.randn(8, 4) - 5])
    assert_equal(tensors(model.norms[1]), before)
    assert bool((model.norms[0].running_mean < -4).all())
    with pytest.raises(DataError, match="batches=0"):
        recalibrate(model, [torch.randn(8, 4)], batches=0)


@pytest.mark.parametrize("fault", ["nan input", "infinite input", "nan weight", "interrupt"])
def test_statistics_are_as_they_were_where_recalibration_fails(fault: str) -> None:
    data = batches(count=3)
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    if fault == "interrupt":

        def stop(*_: object) -> None:
            if model[1].num_batches_tracked == 2:
                raise KeyboardInterrupt

        model[1].register_forward_hook(stop)
    elif fault == "nan weight":
        model[0].weight.data[0, 0] = math.nan
    else:
        data[2][0][0, 0] = math.nan if fault == "nan input" else math.inf
    with pytest.raises(KeyboardInterrupt if fault == "interrupt" else (DataError, TrainingError)):
        recalibrate(model, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
    assert model[1].momentum == 0.1
    assert all(module.training for module in model.modules())


class Added(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        out: torch.Tensor = self.net(x if y is None else x + y)
        return out


(X, Y), *_ = batches()
BATCHES = {
    "a tensor": X,
    "a tuple of one": (X,),
    "a pair": [X, Y],
    "two inputs": (X, X, Y),
    "two inputs in one": ([X, X], Y),
    "keywords": {"x": X},
    "keywords of two": {"x": X, "y": X},
    "keywords and labels": {"x": X, "labels": Y},
    "a pair with keywords": ({"x": X, "labels": Y}, Y),
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_compensation_and_recalibration_read_the_same_batches(batch: object) -> None:
    model = Added()
    structure = icycle.trace(model, X)
    before = model.net[3].weight.clone()
    icycle.compensate(model, structure, icycle.SubNetwork.random(structure, 0.5), [batch])
    assert not torch.equal(model.net[3].weight, before)
    for each in (torch.optim.swa_utils.AveragedModel(model), model):
        recalibrate(each, [batch])
        norm = next(module for module in each.modules() if isinstance(module, nn.BatchNorm2d))
        assert norm.running_mean.all()


def test_a_model_without_batch_norm_reads_no_data() -> None:
    def unreadable() -> Batches:
        raise AssertionError("the data was read")

    class Unreadable:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> object:
            return unreadable()

    recalibrate(nn.Linear(2, 2), Unreadable())  # type: ignore[arg-type]
