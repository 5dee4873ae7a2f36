"""State of every kind is sliced rightly, or refused before anything is touched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icycle
from icycle.errors import SurgeryError
from networks import differences, snapshot

EXAMPLE = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def network(hidden: int = 8, second: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, second), nn.ReLU(), nn.Linear(second, 3))


def step(model: nn.Module, optimizer: Any) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(EXAMPLE).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def half(model: nn.Module) -> tuple[icycle.Structure, icycle.SubNetwork]:
    structure = icycle.trace(model, EXAMPLE)
    return structure, icycle.SubNetwork.random(structure, 0.5)


class PerParameter(torch.optim.Optimizer):
    """Plain descent that keeps what `make(parameter)` gives."""

    def __init__(self, params: Any, make: Callable[[Tensor], dict[str, Any]]) -> None:
        super().__init__(params, {})
        self._make = make

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        closure()
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                state.update(self._make(parameter.detach()))
            assert all(value.shape == self._make(parameter.detach())[key].shape for key, value in state.items())
            parameter.data.sub_(parameter.grad, alpha=0.01)


def gram(parameter: Tensor) -> dict[str, Tensor]:
    rows = parameter.reshape(len(parameter), -1)
    return {"rows": rows @ rows.T, "columns": rows.T @ rows}


def factored(parameter: Tensor) -> dict[str, Tensor]:
    rows = parameter.reshape(len(parameter), -1).square()
    return {"exp_avg_sq_row": rows.mean(dim=1), "exp_avg_sq_col": rows.mean(dim=0)}


def refused(model: nn.Module, optimizer: Any, match: str) -> None:
    structure, subnet = half(model)
    before, state = snapshot(model), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(SurgeryError, match=match):
        icycle.prune(model, structure, subnet, optimizer)
    assert differences(before, snapshot(model)) == []
    assert str(state) == str(optimizer.state_dict())


def test_factored_state_follows_its_dimension() -> None:
    model = network()
    optimizer = PerParameter(model.parameters(), factored)
    step(model, optimizer)
    old = optimizer.state[model[2].weight]
    structure, subnet = half(model)
    icycle.prune(model, structure, subnet, optimizer)
    new = optimizer.state[model[2].weight]
    assert torch.equal(new["exp_avg_sq_row"], old["exp_avg_sq_row"][subnet.keep["2"]])
    assert torch.equal(new["exp_avg_sq_col"], old["exp_avg_sq_col"][subnet.keep["0"]])
    step(model, optimizer)


def test_preconditioners_lose_rows_and_columns() -> None:
    model = network()
    optimizer = PerParameter([p for p in model.parameters() if p.dim() == 2], gram)
    step(model, optimizer)
    old = optimizer.state[model[2].weight]
    structure, subnet = half(model)
    icycle.prune(model, structure, subnet, optimizer)
    rows, columns = subnet.keep["2"], subnet.keep["0"]
    new = optimizer.state[model[2].weight]
    assert torch.equal(new["rows"], old["rows"][rows][:, rows])
    assert torch.equal(new["columns"], old["columns"][columns][:, columns])
    step(model, optimizer)


def test_the_same_entry_of_other_weights_tells_what_a_square_weight_does_not() -> None:
    model = network(8, 8)
    optimizer = PerParameter([p for p in model.parameters() if p.dim() == 2], gram)
    step(model, optimizer)
    old = optimizer.state[model[2].weight]
    structure, subnet = half(model)
    icycle.prune(model, structure, subnet, optimizer)
    rows = subnet.keep["2"]
    assert torch.equal(optimizer.state[model[2].weight]["rows"], old["rows"][rows][:, rows])


@pytest.mark.parametrize("make", [gram, lambda p: {"mine": p.clone()}])
def test_a_square_weight_alone_is_not_guessed(make: Callable[[Tensor], dict[str, Tensor]]) -> None:
    model = network(8, 8)
    optimizer = PerParameter([model[2].weight], make)
    step(model, optimizer)
    refused(model, optimizer, r"2\.weight.*cannot be told")


def test_eigenvectors_are_refused() -> None:
    model = network()
    optimizer = PerParameter([model[2].weight], lambda p: {"basis": torch.linalg.qr(torch.randn(10, 10))[0]})
    structure, subnet = half(model)
    optimizer.state[model[2].weight] = {"basis": torch.linalg.qr(torch.randn(10, 10))[0]}
    with pytest.raises(SurgeryError, match="symmetric"):
        icycle.prune(model, structure, subnet, optimizer)


@pytest.mark.parametrize("value", [torch.zeros(7), [torch.zeros(80)], object(), torch.zeros(3, 10, 8)])
def test_state_of_other_shapes_is_refused(value: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model[2].weight] = {"odd": value}
    structure, subnet = half(model)
    before = snapshot(model)
    with pytest.raises(SurgeryError, match=r"'odd.*without the optimizer"):
        icycle.prune(model, structure, subnet, optimizer)
    assert differences(before, snapshot(model)) == []


def test_torchs_own_know_square_weights() -> None:
    model = nn.Sequential(
        nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 6)
    )
    optimizer = torch.optim.Adam([model[2].weight])
    step(model, optimizer)
    old = optimizer.state[model[2].weight]["exp_avg"]
    structure, subnet = half(model)
    icycle.prune(model, structure, subnet, optimizer)
    new = optimizer.state[model[2].weight]["exp_avg"]
    assert torch.equal(new, old[subnet.keep["2"]][:, subnet.keep["0"]])


@pytest.mark.parametrize("name", ["Adafactor", "Muon", "SparseAdam", "Rprop", "ASGD"])
def test_others_of_torch_go_on(name: str) -> None:
    if not hasattr(torch.optim, name):
        pytest.skip(f"this torch has no {name}")
    model = network()
    params = [p for p in model.parameters() if name != "Muon" or p.dim() == 2]
    optimizer = getattr(torch.optim, name)(params, lr=0.01)
    if name != "SparseAdam":
        step(model, optimizer)
    icycle.prune(model, *half(model), optimizer)
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert held <= {id(p) for p in model.parameters()}
    if name != "SparseAdam":
        step(model, optimizer)


def test_the_history_of_lbfgs_is_refused_and_one_without_goes_on() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    step(model, optimizer)
    refused(model, optimizer, r"LBFGS.*build a new one")
    optimizer.state.clear()
    icycle.prune(model, *half(model), optimizer)
    step(model, optimizer)


def test_a_history_kept_with_a_parameter_that_stays_is_noticed() -> None:
    model = network()
    head = model[4].bias
    optimizer = torch.optim.LBFGS([head, *(p for p in model.parameters() if p is not head)], max_iter=3)
    step(model, optimizer)
    refused(model, optimizer, "LBFGS")


class Lookahead(torch.optim.Optimizer):
    """Slow weights in lists beside the groups of the optimizer that it wraps."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.param_groups, self.state = inner, inner.param_groups, inner.state
        self.slow_weights = [[p.clone().detach() for p in group["params"]] for group in inner.param_groups]


def test_lookaheads_slow_weights_are_sliced() -> None:
    model = network()
    inner = torch.optim.AdamW(model.parameters())
    step(model, inner)
    optimizer = Lookahead(inner)
    old = optimizer.slow_weights[0][2]
    structure, subnet = half(model)
    icycle.prune(model, structure, subnet, optimizer)
    assert torch.equal(optimizer.slow_weights[0][2], old[subnet.keep["2"]][:, subnet.keep["0"]])
    assert inner.param_groups[0]["params"][2] is model[2].weight
    assert inner.state[model[2].weight]["exp_avg"].shape == model[2].weight.shape
    step(model, inner)


@pytest.mark.parametrize("key", ["average", 3])
def test_state_by_other_keys(key: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[key] = {"steps": 3, "count": torch.ones(1)}
    copied = copy.deepcopy(model)
    icycle.prune(model, *half(model), optimizer)
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.1)
    optimizer.state[key] = [torch.zeros(8)]
    refused(copied, optimizer, "single parameter")


def test_tensors_in_other_attributes_are_refused() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.flat = torch.zeros(9)  # type: ignore[attr-defined]
    refused(model, optimizer, "'flat'")
