"""What a run takes and gives, what it leaves behind, and what is done by no rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from cases import ROW, Net
from icycle.errors import TraceError
from proof import prove, reasons, sizes


@dataclass
class Answer:
    logits: Tensor
    features: Tensor


def _two(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    hidden = net.a(x).relu()
    return net.b(hidden), net.c(hidden)


OUTPUTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "tuple": _two,
    "dict": lambda net, x: dict(zip(("one", "two"), _two(net, x), strict=True)),
    "nested": lambda net, x: {"all": [_two(net, x)], "number": 3},
    "dataclass": lambda net, x: Answer(*_two(net, x)),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_are_found_wherever_they_are(kind: str) -> None:
    net = Net(OUTPUTS[kind], a=nn.Linear(6, 10), b=nn.Linear(10, 2), c=nn.Linear(10, 4))
    structure = prove(net, ROW)
    assert sizes(structure) == {"a": 10}
    assert reasons(structure).count("an output of the model") == 2


@pytest.mark.parametrize("inputs", [(ROW, -ROW), [ROW, -ROW], {"x": ROW, "y": -ROW}], ids=["tuple", "list", "dict"])
def test_several_inputs(inputs: Any) -> None:
    net = Net(
        lambda net, x, y: net.out((net.a(x) + net.b(y)).relu()),
        a=nn.Linear(6, 10),
        b=nn.Linear(6, 10),
        out=nn.Linear(10, 2),
    )
    assert sizes(prove(net, inputs)) == {"a": 10}


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def test_a_custom_autograd_function_is_seen_through() -> None:
    net = Net(lambda net, x: net.out(_Doubled.apply(net.a(x).relu())), a=nn.Linear(6, 10), out=nn.Linear(10, 2))
    assert sizes(prove(net, ROW)) == {"a": 10}


@torch.library.custom_op("icycle_tests::tripled", mutates_args=())
def tripled(x: Tensor) -> Tensor:
    return x * 3


tripled.register_fake(torch.empty_like)
tripled.register_autograd(lambda ctx, gradient: gradient * 3)


def _with_custom_operation() -> nn.Module:
    return Net(lambda net, x: net.out(tripled(net.a(x).relu())), a=nn.Linear(6, 10), out=nn.Linear(10, 2))


def test_an_unknown_operation_pins_what_it_touches_and_is_named() -> None:
    structure = prove(_with_custom_operation(), ROW)
    assert not structure.prunable
    assert "no rule for icycle_tests::tripled" in structure["a"].reason


def test_a_registered_rule_makes_it_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from icycle.tracing import Tracer, _registry, register

    monkeypatch.setattr(_registry, "_rules", dict(_registry._rules))

    @register("icycle_tests::tripled")
    def rule(tracer: Tracer, operation: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        info = tracer.info(args[0])
        tracer.give(result, info.dims, info.zero)

    assert sizes(prove(_with_custom_operation(), ROW)) == {"a": 10}


def test_code_that_reads_values_is_traced_on_real_tensors() -> None:
    net = Net(
        lambda net, x: net.out(y if (y := net.a(x).relu()).mean() > -1 else y * 0),
        a=nn.Linear(6, 10),
        out=nn.Linear(10, 2),
    )
    structure = icycle.trace(net, ROW)
    assert "a" in {group.name for group in structure.groups}
    prove(net, ROW)


def test_code_that_reads_integer_inputs_stays_without_data() -> None:
    def forward(net: Any, x: Tensor, mask: Tensor) -> Tensor:
        return net.out(net.a(x).relu() * (1 if mask.all() else 2))

    net = Net(forward, a=nn.Linear(6, 10), out=nn.Linear(10, 2))
    assert sizes(prove(net, (ROW, torch.ones(2, dtype=torch.bool)))) == {"a": 10}


class Cached(nn.Module):
    """Keeps a result computed from weights in a plain dict, in eval mode, as models with attention biases do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 10), nn.Linear(6, 10), nn.Linear(10, 2)
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.out(self.a(x) * self.b.weight.sum(1))
        if "sum" not in self.cache:
            self.cache["sum"] = self.b.weight.sum(1)
        return self.out(self.a(x) * self.cache["sum"])


def test_cached_tensors_are_dropped_by_a_removal() -> None:
    model = Cached().double().eval()
    structure = prove(model, ROW)
    assert sizes(structure) == {"b.in": 6, "a": 10}
    with torch.no_grad():
        model(ROW.double())
    icycle.prune(model, structure, icycle.SubNetwork.random(structure, 0.5))
    assert not model.cache
    assert model(ROW.double()).shape == (2, 2)


def test_cached_tensors_do_not_pin() -> None:
    model = Cached().double().eval()
    with torch.no_grad():
        model(ROW.double())
    assert sizes(prove(model, ROW)) == {"b.in": 6, "a": 10}


def test_constants_in_a_dict_are_kept() -> None:
    net = Net(
        lambda net, x: net.out(net.a(x).relu() * net.constants["scale"]),
        a=nn.Linear(6, 10),
        out=nn.Linear(10, 2),
        constants={"scale": torch.full((), 2.0)},
    )
    assert sizes(prove(net, ROW)) == {"a": 10}


def test_modules_the_example_does_not_run_are_left_alone() -> None:
    net = Net(lambda net, x: net.out(net.a(x).relu()), a=nn.Linear(6, 10), out=nn.Linear(10, 2), idle=nn.Linear(10, 9))
    structure = prove(net, ROW)
    assert sizes(structure) == {"a": 10}
    assert "was not used" in structure["idle"].reason


def test_an_auxiliary_head_of_training_mode_loses_channels_with_the_others() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        hidden = net.a(x).relu()
        return (net.out(hidden), net.extra(hidden)) if net.training else net.out(hidden)

    net = Net(forward, a=nn.Linear(6, 10), out=nn.Linear(10, 2), extra=nn.Linear(10, 3))
    assert sizes(prove(net, ROW)) == {"a": 10}


@pytest.mark.parametrize(
    "in_training",
    [
        lambda net, x: net.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1),
        lambda net, x: x + torch.randn_like(x) * net.mean,
        lambda net, x: x.add_(net.mean),
    ],
    ids=["a mean that runs along", "noise", "in place"],
)
def test_buffers_that_only_training_reads_lose_channels_with_the_others(in_training: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        hidden = net.a(x).sin()
        if net.training:
            in_training(net, hidden)
        return net.out(hidden)

    net = Net(forward, a=nn.Linear(6, 10), out=nn.Linear(10, 2))
    net.register_buffer("mean", torch.zeros(10))
    structure = prove(net, ROW)
    assert sizes(structure) == {"a": 10}
    assert "mean" in {piece.parameter for piece in structure["a"].slices}


def test_sizes_written_into_what_only_training_runs_stay() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        hidden = net.a(x).relu()
        if net.training:
            hidden = (hidden.view(-1, 5, 2) * torch.rand(len(x), 5, 1)).view(-1, 10)
        return net.out(hidden)

    assert sizes(prove(Net(forward, a=nn.Linear(6, 10), out=nn.Linear(10, 2)), ROW)) == {}


def test_what_does_not_run_in_training_mode_is_noted() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        if net.training:
            raise ValueError("no targets")
        return net.out(net.a(x).relu())

    structure = icycle.trace(Net(forward, a=nn.Linear(6, 10), out=nn.Linear(10, 2)), ROW)
    assert sizes(structure) == {"a": 10}
    assert "training mode" in " ".join(structure.notes) and "no targets" in " ".join(structure.notes)


def test_an_example_without_elements_is_refused() -> None:
    with pytest.raises(TraceError, match="at least one element"):
        icycle.trace(nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 2)), torch.randn(0, 6))


@pytest.mark.parametrize("made", [torch.jit.script, lambda module: torch.jit.trace(module, torch.randn(2, 10))])
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_module_compiled_to_torchscript_is_refused_by_its_path(made: Any) -> None:
    inner = made(nn.Sequential(nn.Linear(10, 10), nn.ReLU()))
    with pytest.raises(TraceError, match=r"but 1 \(.*TorchScript"):
        icycle.trace(nn.Sequential(nn.Linear(6, 10), inner, nn.Linear(10, 2)), ROW)
