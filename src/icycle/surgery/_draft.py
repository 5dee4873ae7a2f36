"""Changes of a model that are made on a draft first, and put in the model's place all at once."""

from __future__ import annotations

import functools
import itertools
import operator
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from icycle.surgery._layers import is_layer, synchronise
from icycle.tracing import STAND_INS, Caches, Edit, named_modules, rewritten

__all__ = ["Draft", "Place", "Swap", "changed_attributes", "commit"]

Place = tuple[str, str, int | None]
"""A module's path, the name of an integer attribute, and the place in it where that is a tuple or list."""

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_CHANGED = "_icycle_attributes"  # on a module: which of its attributes followed a removal; copies and pickles along


class Swap(NamedTuple):
    """One exchange: `forward` makes it, `backward` takes it back; either may be called again and has the same effect.

    Both are single calls of functions written in C, so that `commit` can run them without a line of Python between.
    """

    forward: partial[Any]
    backward: partial[Any]

    @classmethod
    def item(cls, target: Any, key: Any, value: Any) -> Swap:
        """`target[key] = value`, where the key may be new to a dict."""
        if isinstance(target, dict) and key not in target:
            return cls(partial(operator.setitem, target, key, value), partial(dict.pop, target, key, None))
        return cls(partial(operator.setitem, target, key, value), partial(operator.setitem, target, key, target[key]))

    @classmethod
    def refill(cls, target: Any, content: Mapping[Any, Any]) -> list[Swap]:
        """Give a dict, which others may refer to, other content."""
        empty = partial(dict.clear, target)
        before = dict(target)
        return [cls(empty, partial(dict.update, target, before)), cls(partial(dict.update, target, content), empty)]


def commit(swaps: Sequence[Swap]) -> None:
    """Make all of the exchanges, or none.

    Both directions are one call into C (`deque` empties a `map` of `partial.__call__`): there, neither a signal's
    handler nor a trace function nor another thread can run, so an interrupt comes before all of it or after. An
    exchange that fails (a user's own mapping may) is taken back with all others, again where an interrupt cuts into
    that.
    """
    forward, backward = [swap.forward for swap in swaps], [swap.backward for swap in reversed(swaps)]
    try:
        try:
            _run(forward)
        except BaseException:
            _run(backward)
            raise
    except BaseException:
        _run(backward)  # an interrupt may have come before the line above, or within
        raise


def _run(calls: list[partial[Any]]) -> None:
    deque(map(partial.__call__, calls), maxlen=0)


class Draft:
    """Twins of the modules that change, sharing all that is not exchanged; the model itself is not touched."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._paths = dict(named_modules(model, again=True))
        self._twins: dict[int, tuple[nn.Module, nn.Module]] = {}

    @property
    def model(self) -> nn.Module:
        """The twin of the model."""
        return self._twin(self._model)

    def exchange(
        self, old: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], attributes: Mapping[Place, int]
    ) -> None:
        """Put `tensors` in the place of those parameters and buffers among all `old` that have their names, and set
        integer attributes.

        Attention that loses something gets the class that can, and torch's own layers tell their new shapes.
        """
        new = {id(old[name]): tensor for name, tensor in tensors.items() if tensor is not old[name]}
        smaller = {id(old[name]) for name, tensor in tensors.items() if tensor.shape != old[name].shape}
        for module in self._paths.values():
            if not any(id(tensor) in new for tensor in _described_tensors(module)):
                continue
            twin, kind = self._twin(module), own_class(module)
            if kind in STAND_INS and any(id(tensor) in smaller for tensor in module.parameters()):
                twin.__class__ = _reclassed(twin, STAND_INS[kind])
            for registry in (vars(twin)["_parameters"], vars(twin)["_buffers"]):
                # tied parameters are one tensor in several places, and stay one
                registry.update({key: new[id(tensor)] for key, tensor in registry.items() if id(tensor) in new})
        for place, value in attributes.items():
            self._set_attribute(place, value)
        for _, twin in self._twins.values():
            children = vars(twin)["_modules"]
            children.update({name: self._twins[id(one)][1] for name, one in children.items() if id(one) in self._twins})
        for _, twin in self._twins.values():
            synchronise(twin)

    def rewrite(self, edits: Mapping[str, Sequence[Edit]]) -> None:
        """Make these edits in the code of the modules at these paths, each of which gets a class of its own for it."""
        for path, own in edits.items():
            twin = self._twin(self._paths[path])
            twin.__class__ = _reclassed(twin, rewritten(own_class(twin), own))

    def empty(self, caches: Caches) -> None:
        """Results that modules keep in dicts are outdated now."""
        for path, name in caches:
            vars(self._twin(self._paths[path]))[name] = {}

    def swaps(self) -> Iterator[Swap]:
        """What makes the model like the draft."""
        for module, twin in self._twins.values():
            for registry in ("_parameters", "_buffers"):
                yield from _differences(vars(module)[registry], vars(twin)[registry])
            yield from _differences(vars(module), vars(twin), but=_REGISTRIES)
            if type(twin) is not type(module):
                change = partial(object.__setattr__, module, "__class__")
                yield Swap(partial(change, type(twin)), partial(change, type(module)))

    def _twin(self, module: nn.Module) -> nn.Module:
        if id(module) not in self._twins:
            self._twins[id(module)] = module, _twin(module)
        return self._twins[id(module)][1]

    def _set_attribute(self, place: Place, value: int) -> None:
        path, name, item = place
        own = vars(self._twin(self._paths[path]))
        if item is None:
            new: Any = value
        else:
            items = list(own[name])
            items[item] = value
            new = type(own[name])(items)
        if new != own[name]:
            own[name] = new
            own[_CHANGED] = tuple(dict.fromkeys((*own.get(_CHANGED, ()), (name, item))))


def changed_attributes(model: nn.Module) -> list[Place]:
    """The integer attributes that removals from `model` have changed, ever."""
    return [
        (path, name, item) for path, module in named_modules(model) for name, item in vars(module).get(_CHANGED, ())
    ]


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module was written as: FSDP2 puts one in front of it."""
    return _written_as(type(module))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=256)
def _written_as(kind: Any) -> type[nn.Module]:
    kinds = kind.__mro__
    front = next((place for place, each in enumerate(kinds) if each.__name__ == "FSDPModule"), None)
    return kind if front is None else kinds[front + 1]


def _reclassed(module: nn.Module, kind: type[nn.Module]) -> type[nn.Module]:
    """The module's class with `kind` in the place of the class that it was written as."""
    now, own = type(module), own_class(module)
    if now is own:
        return kind
    return type(now.__name__, (*now.__bases__[:-1], kind), dict(vars(now)))


def _described_tensors(module: nn.Module) -> Iterator[torch.Tensor | None]:
    """Those that a module's attributes may describe: its own, and those of layers that torch has put into its own."""
    if module._modules and is_layer(module):
        return module.parameters()
    return itertools.chain(module._parameters.values(), module._buffers.values())


def _twin(module: nn.Module) -> nn.Module:
    twin = nn.Module.__new__(type(module))
    vars(twin).update(vars(module))
    vars(twin).update({registry: dict(vars(module)[registry].items()) for registry in _REGISTRIES})
    return twin


def _differences(old: Any, new: dict[str, Any], but: Sequence[str] = ()) -> Iterator[Swap]:
    missing = object()
    changed = [(key, value) for key, value in new.items() if old.get(key, missing) is not value]
    yield from (Swap.item(old, key, value) for key, value in changed if key not in but)
