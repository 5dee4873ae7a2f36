"""Adversarial networks as tables, and the oracle that tries them: independent of the engine's own testing code.

A case is a tiny network built around a trap, or a control: a network near a trap whose groups must stay exact, so that
nobody wins by calling everything inexact.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import icycle
from icycle.errors import SurgeryError

__all__ = [
    "Block",
    "Case",
    "Net",
    "case",
    "controls",
    "direct",
    "image",
    "in_heads",
    "joined",
    "linears",
    "parameter",
    "row",
    "sequence",
    "traps",
    "try_case",
]

EXACT = 1e-9  # relative, in float64

Build = Callable[[], tuple[nn.Module, Any]]
Template = Callable[..., Build]


@dataclass(frozen=True)
class Case:
    """A network and its input; the groups named in `exact` must be exact ("*": some group must be).

    `unseen` says why no rule can see the trap (Python gives no way to): with the numbers switched off it is excused.
    """

    name: str
    build: Build
    exact: tuple[str, ...] = ()
    unseen: str = ""


class Block(nn.Module):
    """A function of the input, or of the block and the input, over named parts."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        self.alone = function.__code__.co_argcount == 1
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.function(x) if self.alone else self.function(self, x)


class Net(nn.Module):
    """A layer that can lose channels, the trap, and a layer behind it where its result can be fed to one."""

    def __init__(self, first: nn.Module, middle: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.last = first, middle, last

    def forward(self, x: Tensor) -> Any:
        return self.last(self.middle(self.first(x)))


# ---- templates: from what is between two layers to a network and its input ----


def row(function: Any, width: int = 8, last: bool = True, parts: Callable[[], dict[str, Any]] = dict) -> Build:
    """x (4, 5) -> Linear -> (4, width) -> function -> Linear, or as it is where no layer fits."""
    return lambda: _between(torch.randn(4, 5), lambda: nn.Linear(5, width), function, last, parts)


def sequence(function: Any, width: int = 8, last: bool = True, parts: Callable[[], dict[str, Any]] = dict) -> Build:
    """x (2, 6, 5) -> Linear -> (2, 6, width) -> function -> Linear."""
    return lambda: _between(torch.randn(2, 6, 5), lambda: nn.Linear(5, width), function, last, parts)


def image(function: Any, width: int = 8, last: bool = True, parts: Callable[[], dict[str, Any]] = dict) -> Build:
    """x (2, 3, 6, 6) -> Conv2d -> (2, width, 6, 6) -> function -> Conv2d."""
    return lambda: _between(torch.randn(2, 3, 6, 6), lambda: nn.Conv2d(3, width, 3, padding=1), function, last, parts)


def direct(make: Callable[[], nn.Module], *shape: int) -> Build:
    """A whole module, on one input of this shape."""
    return lambda: (make(), torch.randn(shape))


def _between(x: Tensor, layer: Any, function: Any, last: bool, parts: Any) -> tuple[nn.Module, Tensor]:
    first = layer()
    middle = function() if isinstance(function, type) else Block(function, **parts())
    with torch.no_grad():
        y = copy.deepcopy(middle).double().eval()(first.double()(x.double()))
    return Net(first, middle, _last(y) if last else nn.Identity()), x


def _last(y: Any) -> nn.Module:
    if not isinstance(y, Tensor) or not y.is_floating_point() or y.dim() < 2:
        return nn.Identity()
    return nn.Conv2d(y.shape[1], 3, 1) if y.dim() == 4 else nn.Linear(y.shape[-1], 3)


# ---- parts of networks ----


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def linears(**sizes: tuple[int, int]) -> Any:
    """Linear layers by name."""
    return lambda: {name: nn.Linear(*size) for name, size in sizes.items()}


def in_heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


# ---- tables ----


def case(name: str, build: Build, *exact: str, unseen: str = "") -> Case:
    """One case; the groups named must be exact."""
    return Case(name, build, exact, unseen)


def traps(family: str, template: Template, *, unseen: str = "", **functions: Any) -> list[Case]:
    """A case for every function, or pair of a function and the parts that it uses."""
    return [Case(f"{family}-{name}", _apply(template, one), (), unseen) for name, one in functions.items()]


def controls(family: str, template: Template, *exact: str, **functions: Any) -> list[Case]:
    """A case for every function, whose first layer (or the groups named) must stay exact."""
    return [Case(f"{family}-{name}", _apply(template, one), exact or ("first",)) for name, one in functions.items()]


def _apply(template: Template, function: Any) -> Build:
    return template(function[0], parts=function[1]) if isinstance(function, tuple) else template(function)


# ---- the oracle ----


def try_case(case: Case, proof: str | None) -> None:
    """Every promise of a structure, put to the test by hand."""
    torch.manual_seed(0)
    model, inputs = case.build()
    model, inputs = _prepared(model), _double(inputs)
    dense = _outputs(copy.deepcopy(model), inputs)
    assert all(_finite(out) for out in dense), "the case itself is broken"
    structure = icycle.trace(model, inputs, **({} if proof is None else {"proof": proof}))
    exact = [group for group in structure.prunable if group.exact]
    _assert_controls(case, structure)
    for gone in _trials(exact):
        _assert_same(model, inputs, structure, gone)
    if structure.prunable:
        _assert_runs_and_trains(model, inputs, structure, dense)
    if len(exact) < len(structure.prunable):
        _assert_runs_and_trains(model, inputs, structure, dense, least=True)


def _assert_controls(case: Case, structure: icycle.Structure) -> None:
    exact = {group.name for group in structure.prunable if group.exact}
    told = "\n".join(f"{group.name}: {group.reason or group.inexact_reason}" for group in structure.groups)
    if case.exact == ("*",):
        assert exact, told
    elif case.exact:
        assert set(case.exact) <= exact, told


def _trials(groups: list[Any]) -> Iterator[dict[str, Tensor]]:
    """What goes of each group: one group at a time, a random subset, all at once, all but one channel of all."""
    dice = random.Random(0)
    if not groups:
        return
    if len(groups) > 1:
        for group in groups:
            yield {group.name: _some(group.size, dice)}
    if len(groups) > 2:
        yield {group.name: _some(group.size, dice) for group in dice.sample(groups, len(groups) - 1)}
    yield {group.name: _some(group.size, dice) for group in groups}
    yield {group.name: _some(group.size, dice, least=True) for group in groups}


def _some(size: int, dice: random.Random, least: bool = False) -> Tensor:
    gone = torch.zeros(size, dtype=torch.bool)
    gone[dice.sample(range(size), size - 1 if least else dice.randrange(1, size))] = True
    return gone


def _prepared(model: nn.Module) -> nn.Module:
    """In float64 and eval mode; no parameter is zero or one, and no two are equal."""
    dice = torch.Generator().manual_seed(1)
    model = model.double().eval()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=dice, dtype=torch.float64))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=dice)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=dice)
    return model


def _assert_same(model: nn.Module, inputs: Any, structure: icycle.Structure, gone: Mapping[str, Tensor]) -> None:
    removed = _pruned(model, structure, gone)
    if removed is None:
        return
    zeroed = copy.deepcopy(model)
    _zero(zeroed, structure, gone)
    expected, actual = _outputs(zeroed, inputs), _outputs(removed, inputs)
    told = f"removing { ({name: int(mask.sum()) for name, mask in gone.items()}) }"
    assert len(actual) == len(expected), told
    for a, b in zip(actual, expected, strict=True):
        error = _error(a, b)
        assert error <= EXACT, f"{told} differs from zeroing by {error:.2e}"


@torch.no_grad()
def _zero(model: nn.Module, structure: icycle.Structure, gone: Mapping[str, Tensor]) -> None:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, mask in gone.items():
        for piece in structure[name].slices:
            places = torch.from_numpy(piece.index[mask.numpy()].reshape(-1))
            tensors[piece.parameter].index_fill_(piece.dim, places, 1.0 if piece.role == "variance" else 0.0)


def _pruned(model: nn.Module, structure: icycle.Structure, gone: Mapping[str, Tensor]) -> nn.Module | None:
    """A copy without these channels; None where one channel is left of a group and that is refused: a dimension of one
    element may be dropped, and the model then does not run."""
    try:
        return icycle.prune(copy.deepcopy(model), structure, _subnet(structure, gone))
    except SurgeryError:
        if all(int((~mask).sum()) > 1 for mask in gone.values()):
            raise
        return None


def _subnet(structure: icycle.Structure, gone: Mapping[str, Tensor]) -> icycle.SubNetwork:
    keep = {group.name: torch.ones(group.size, dtype=torch.bool) for group in structure.prunable}
    return icycle.SubNetwork(keep | {name: ~mask for name, mask in gone.items()})


def _assert_runs_and_trains(
    model: nn.Module, inputs: Any, structure: icycle.Structure, dense: list[Any], least: bool = False
) -> None:
    """All prunable groups lose channels at once: the outputs keep their shapes, and one step of training runs."""
    dice = random.Random(1)
    pruned = _pruned(model, structure, {group.name: _some(group.size, dice, least) for group in structure.prunable})
    if pruned is None:
        return
    outputs = _outputs(copy.deepcopy(pruned), inputs)
    assert [_shape(out) for out in outputs] == [_shape(out) for out in dense]
    if not least and _can_train(copy.deepcopy(model), inputs):
        assert _trains(pruned, inputs), "the whole model trains, what is left of it does not"


def _can_train(model: nn.Module, inputs: Any) -> bool:
    try:
        return _trains(model, inputs)
    except (NotImplementedError, RuntimeError):  # an operation without a derivative
        return False


def _trains(model: nn.Module, inputs: Any) -> bool:
    """Whether a loss on the outputs has gradients; a step along them runs."""
    model.train()
    floats = [out for out in _tensors(_call(model, _copied(inputs))) if out.is_floating_point() and out.requires_grad]
    if not floats:
        return False
    sum(out.sum() for out in floats).backward()
    torch.optim.SGD(model.parameters(), lr=1e-4).step()
    return True


# ---- inputs and outputs ----


def _double(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _double(item) for key, item in value.items()}
    return tuple(_double(item) for item in value) if isinstance(value, (tuple, list)) else value


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return tuple(_copied(item) for item in value) if isinstance(value, tuple) else value


def _call(model: nn.Module, inputs: Any) -> Any:
    torch.manual_seed(0)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        return list(_tensors(_call(model.eval(), _copied(inputs))))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor, and every number as a tensor."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (bool, int, float, complex)):
        yield torch.tensor(value)
    elif isinstance(value, np.ndarray):
        yield torch.from_numpy(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value):
        for name in (one.name for one in dataclasses.fields(value)):
            yield from _tensors(getattr(value, name))


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _error(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||; infinite where the shapes differ or anything is not a number."""
    if actual.shape != expected.shape or not (_finite(actual) and _finite(expected)):
        return math.inf
    wide = torch.complex128 if expected.is_complex() else torch.float64
    size, difference = float(expected.to(wide).norm()), float((actual.to(wide) - expected.to(wide)).norm())
    return difference / size if size > 0 else difference
