"""A copy of a model is what `copy.deepcopy` makes of it: the same attributes, and the same of them shared."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from icycle.tracing import duplicate, set_mode


class Sharing(nn.Module):
    """Two modules that share a registry, still empty, a dict, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.ReLU()
        self.again = self.first
        self.notes, self.table = OrderedDict(), {"sizes": [1, 2], "of": (self.first, "x")}
        self.second.notes, self.second.table = self.notes, self.table


class OwnState(nn.Module):
    """Leaves something out of its copies, and tells by `__setstate__` that it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.cache, self.seen = nn.Linear(2, 2), {"a": 1}, {1, 2}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "cache": {}, "seen": set()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.copied = True


class OwnCopy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnCopy:
        made = OwnCopy()
        made.layer = copy.deepcopy(self.layer, memo)
        return made


class Circle(nn.Module):
    """Holds itself, in a list that is no module list, where a module without a copy of its own stands, too."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.all: list[Any] = [self, self.own, nn.Dropout(), {1, 2}, torch.float64, torch.Size((1, 2)), 3 + 4j]


class Frozen(nn.Sequential):
    """Its normalisation never trains."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self[1].eval()
        return self


MODELS: dict[str, Callable[[], nn.Module]] = {
    "layers": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(4, 2)),
    "recurrent": lambda: nn.LSTM(3, 4, 2),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "parametrised": lambda: weight_norm(nn.Linear(3, 3)),
    "sharing": Sharing,
    "state": OwnState,
    "copy": lambda: nn.Sequential(OwnCopy(), nn.ReLU()),
    "circle": Circle,
    "frozen": lambda: nn.Sequential(Frozen(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.ReLU()),
}


def graph(value: Any, known: dict[int, int], alive: list[Any]) -> Any:
    """What an object is made of, with a number for every object that was met before."""
    if isinstance(value, (type(None), bool, int, float, complex, str, type, torch.dtype, torch.Size)):
        return repr(value)
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = len(known)
    alive.append(value)
    kind = type(value).__qualname__
    if isinstance(value, torch.Tensor):
        return kind, value.tolist(), value.requires_grad
    if isinstance(value, dict):
        return kind, [(repr(key), graph(item, known, alive)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return kind, [graph(item, known, alive) for item in value]
    if isinstance(value, set):
        return kind, sorted(map(repr, value))
    return kind, graph(dict(getattr(value, "__dict__", {})), known, alive)


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_is_the_one_that_deepcopy_makes(name: str) -> None:
    model = MODELS[name]()
    expected = copy.deepcopy(model)
    made = duplicate(model, lambda tensor: copy.deepcopy(tensor), hooks=True)
    graphs = [graph(each, {}, []) for each in (made, expected)]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_shares_nothing_that_can_be_changed(name: str) -> None:
    model = MODELS[name]()
    made = duplicate(model, lambda tensor: tensor.detach().clone(), hooks=True)
    own: list[Any] = []
    copied: list[Any] = []
    graph(model, {}, own)
    graph(made, {}, copied)
    taken = {id(item) for item in copied}
    assert not [item for item in own if id(item) in taken and isinstance(item, (nn.Module, list, dict, set))]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_mode_is_set_as_the_model_itself_sets_it(name: str, training: bool) -> None:
    model, other = MODELS[name](), MODELS[name]()
    for each in (model, other):
        each.train(not training)
    model.train(training)
    set_mode(other, training)
    assert [module.training for module in other.modules()] == [module.training for module in model.modules()]
