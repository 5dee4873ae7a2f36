"""An optimizer's state after a removal: sliced where its shape tells which dimension is which, refused where not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from icycle.errors import SurgeryError
from icycle.surgery._draft import Swap
from icycle.surgery._plan import Plan
from icycle.surgery._tensors import kept_part
from icycle.tracing import flat_tensors

__all__ = ["optimizer_swaps"]

# what torch's own optimizers keep: dimension d of each is the parameter's dimension d, or has one element
_POSITIONAL = frozenset(
    "momentum_buffer exp_avg exp_avg_sq max_exp_avg_sq exp_inf square_avg acc_delta grad_avg sum prev step_size ax "
    "row_var col_var variance".split()
)
_PLAIN = (type(None), bool, int, float, complex, str, torch.dtype, torch.device)

Key = tuple[str, ...]
Sources = tuple[frozenset[int], ...]
"""For each dimension of a state tensor, the parameter's dimensions that it may follow; none where it has one."""


def optimizer_swaps(
    optimizers: Sequence[torch.optim.Optimizer],
    old: Mapping[str, torch.Tensor],
    new: Mapping[str, torch.Tensor],
    plan: Plan,
) -> list[Swap]:
    """What rewires the optimizers, and those that they wrap, to the `new` parameters and slices their state.

    Raises SurgeryError for state of which it cannot be told what belongs to a removed channel.
    """
    names = {id(old[name]): name for name in new}
    swaps: list[Swap] = []
    seen: set[int] = set()  # a wrapper shares groups and state with what it wraps
    everyone = _with_wrapped(optimizers)
    shared = {id(held) for each in everyone for held in (each.param_groups, each.state, *_lists(each))}
    for optimizer in everyone:
        rewiring = _Rewiring(optimizer, names, new, plan)
        for group in optimizer.param_groups:
            if id(group["params"]) not in seen:
                seen.add(id(group["params"]))
                swaps.append(Swap.item(group["params"], slice(None), rewiring.parameters(group["params"])))
        if id(optimizer.state) not in seen:
            seen.add(id(optimizer.state))
            swaps += Swap.refill(optimizer.state, rewiring.state())
        swaps += rewiring.attributes(shared)
    return swaps


def _with_wrapped(optimizers: Sequence[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    found = list(optimizers)
    for optimizer in found:  # grows while it is walked
        for value in vars(optimizer).values():
            if isinstance(value, torch.optim.Optimizer) and all(value is not other for other in found):
                found.append(value)
    return found


def _lists(optimizer: torch.optim.Optimizer) -> list[list[torch.Tensor]]:
    return [group["params"] for group in optimizer.param_groups]


class _Rewiring:
    """One optimizer whose `names` (id of an old parameter -> its name) get `new` parameters."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, names: Mapping[int, str], new: Mapping[str, torch.Tensor], plan: Plan
    ) -> None:
        self._optimizer, self._names, self._new, self._plan = optimizer, names, new, plan
        self._mirrors = dict(self._mirroring_attributes())
        # by entry and numbers of dimensions: what each may follow, and whether it ever had more than one element
        self._evidence: dict[tuple[Key, int, int], tuple[Sources, tuple[bool, ...]]] = {}
        for parameter, value, key in self._entries():
            self._observe(parameter, value, key)

    def parameters(self, params: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The list in which the new parameters have taken the places of the old."""
        return [self._successor(parameter) for parameter in params]

    def state(self) -> dict[Any, Any]:
        """The state, by the new parameters, in its order."""
        return {
            self._successor(key): self._sliced(key, value, ()) if id(key) in self._names else self._foreign(key, value)
            for key, value in self._optimizer.state.items()
        }

    def attributes(self, shared: set[int]) -> Iterator[Swap]:
        """What other attributes hold of parameters: lists of them, and copies list by list (Lookahead's slow weights).

        torch's LBFGS keeps a count of elements, which is outdated.
        """
        own = vars(self._optimizer)
        if own.get("_numel_cache") is not None:
            yield Swap.item(own, "_numel_cache", None)
        for name, (group, params) in self._mirrors.items():
            copies = [
                self._sliced(parameter, copy, (name,)) if id(parameter) in self._names else copy
                for parameter, copy in zip(params, group, strict=True)
            ]
            yield Swap.item(group, slice(None), copies)
        mirrored = {id(copy) for group, _ in self._mirrors.values() for copy in group}
        for name, value in own.items():
            if name not in ("param_groups", "state", "defaults") and id(value) not in shared:
                if any(tensor.numel() > 1 and id(tensor) not in mirrored for tensor in flat_tensors(value)):
                    raise self._refusal(f"its attribute {name!r} holds tensors", f"optimizer.{name}")

    def _successor(self, parameter: Any) -> Any:
        return self._new[self._names[id(parameter)]] if id(parameter) in self._names else parameter

    def _foreign(self, key: Any, value: Any) -> Any:
        """State of a parameter that stays whole must not hold anything of the others, as the history of LBFGS does."""
        lengths = {1, *key.shape} if isinstance(key, torch.Tensor) else {1}
        if any(set(tensor.shape) - lengths for tensor in flat_tensors(value)):
            where = f"of shape {list(key.shape)}" if isinstance(key, torch.Tensor) else repr(key)
            raise self._refusal(
                f"the state under {where} does not belong to a single parameter",
                f"that entry of optimizer.state ({where})",
            )
        return value

    def _sliced(self, parameter: torch.Tensor, value: Any, key: Key) -> Any:
        if id(value) in self._names:
            return self._successor(value)
        if isinstance(value, torch.Tensor):
            return self._part(parameter, value, key)
        if isinstance(value, dict):
            return type(value)({k: self._sliced(parameter, item, (*key, str(k))) for k, item in value.items()})
        if type(value) in (list, tuple):
            return type(value)(self._sliced(parameter, item, (*key, str(k))) for k, item in enumerate(value))
        if isinstance(value, _PLAIN):
            return value
        raise self._unclear(parameter, key, f"a {type(value).__name__}")

    def _part(self, parameter: torch.Tensor, value: torch.Tensor, key: Key) -> torch.Tensor:
        """The kept part of a state tensor, where everything that its dimensions may follow says the same."""
        kept = self._plan.kept[self._names[id(parameter)]]
        indices = []
        sources, _ = self._evidence[key, parameter.dim(), value.dim()]
        for dim, possible in enumerate(sources):
            if not possible and value.shape[dim] != 1:
                raise self._unclear(parameter, key, f"a tensor of shape {list(value.shape)}")
            choices = [kept[source] for source in sorted(possible)]
            if any(not _equal(choice, choices[0]) for choice in choices):
                raise self._unclear(parameter, key, f"a tensor of shape {list(value.shape)}")
            indices.append(choices[0] if choices else None)
        first = indices[0] if len(indices) == 2 and sources[0] == sources[1] else None
        if first is not None and not torch.allclose(value, value.mT, rtol=1e-3, atol=1e-6 * float(value.abs().max())):
            raise self._unclear(parameter, key, "a square matrix that is not symmetric (eigenvectors?)")
        return kept_part(value, indices)

    def _entries(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, Key]]:
        """(parameter, state tensor, where it is kept), of all parameters."""
        for parameter, state in self._optimizer.state.items():
            if isinstance(parameter, torch.Tensor):
                yield from ((parameter, value, key) for value, key in _leaves(state, ()))
        for name, (group, params) in self._mirrors.items():
            yield from ((parameter, copy, (name,)) for parameter, copy in zip(params, group, strict=True))

    def _observe(self, parameter: torch.Tensor, value: torch.Tensor, key: Key) -> None:
        """A square weight does not tell whether a square tensor is shaped like it or belongs to its rows or columns:
        the same entry of other parameters does, as a dimension follows the same one in all."""
        place = key, parameter.dim(), value.dim()
        positional = self._is_positional(key) and value.dim() == parameter.dim()
        sources = tuple(
            frozenset(
                other
                for other, length in enumerate(parameter.shape)
                if length == size and size != 1 and (not positional or other == dim)
            )
            for dim, size in enumerate(value.shape)
        )
        telling = tuple(size != 1 for size in value.shape)  # one element says nothing
        known, told = self._evidence.get(place, (sources, value.dim() * (False,)))
        self._evidence[place] = (
            tuple(
                one & other if a and b else one if a else other
                for one, other, a, b in zip(sources, known, telling, told, strict=True)
            ),
            tuple(a or b for a, b in zip(telling, told, strict=True)),
        )

    def _is_positional(self, key: Key) -> bool:
        own = type(self._optimizer).__mro__
        is_torchs = any(kind.__module__.startswith("torch.optim.") for kind in own[: own.index(torch.optim.Optimizer)])
        return is_torchs and not isinstance(self._optimizer, torch.optim.LBFGS) and bool(key) and key[-1] in _POSITIONAL

    def _mirroring_attributes(self) -> Iterator[tuple[str, tuple[list[Any], list[torch.Tensor]]]]:
        """Lists of tensors, one for each parameter of a group and of its shape."""
        groups = self._optimizer.param_groups
        for name, value in vars(self._optimizer).items():
            if name in ("param_groups", "state", "defaults") or type(value) is not list:
                continue
            nested = value if len(value) == len(groups) and all(type(item) is list for item in value) else [value]
            for number, (copies, group) in enumerate(zip(nested, groups, strict=False)):
                params = group["params"]
                alike = (
                    copies is not params
                    and len(copies) == len(params)
                    and all(
                        isinstance(copy, torch.Tensor) and copy.shape == parameter.shape
                        for copy, parameter in zip(copies, params, strict=True)
                    )
                )
                if alike and copies:
                    yield f"{name}[{number}]", (copies, params)

    def _unclear(self, parameter: torch.Tensor, key: Key, what: str) -> SurgeryError:
        name, entry = self._names[id(parameter)], ".".join(key)
        return self._refusal(
            f"it keeps {what} as {entry!r} of {name} {list(parameter.shape)}, and which of it belongs to a removed "
            "channel cannot be told",
            f"that entry of optimizer.state ({entry})",
        )

    def _refusal(self, why: str, what: str) -> SurgeryError:
        return SurgeryError(
            f"Expected state that can be sliced along with the parameters, but of {type(self._optimizer).__name__} "
            f"{why}. Delete {what} first, if the optimizer makes it anew; or prune without the optimizer and build a "
            "new one. Nothing was changed."
        )


def _leaves(value: Any, key: Key) -> Iterator[tuple[torch.Tensor, Key]]:
    if isinstance(value, torch.Tensor):
        yield value, key
    elif isinstance(value, (dict, list, tuple)):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (*key, str(name)))


def _equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
