"""Where two runs that should agree first do not: every operation's result zeroed against removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from torch import nn

from icycle.axes import Dim
from icycle.engine._compare import ROUNDINGS, relative_error
from icycle.engine._trial import Trial
from icycle.engine._values import UnitScale
from icycle.structure import SubNetwork
from icycle.tracing import Step, flat_tensors, run_shadow

__all__ = ["first_difference"]

_ELEMENTS = 20_000_000  # of results that are kept; what comes later is not looked at
_VISIBLE = 1e-9  # relative error, where the rounding is not more

Kept = Callable[[Dim], np.ndarray]


@dataclass(frozen=True)
class _Result:
    operation: str
    tensors: tuple[torch.Tensor, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        return self.operation, tuple(tuple(tensor.shape) for tensor in self.tensors)


def first_difference(trial: Trial, subnet: SubNetwork, steps: Sequence[Step], kept: Kept) -> Step | None:
    """The first of the recorded `steps` whose result, where it is kept, is another once channels are removed and not
    zeroed; None where no single one is found. `kept` says which elements of a dimension stay."""
    dtype = trial.dtype
    zeroed = trial.zeroed(subnet, dtype)
    scale = UnitScale(list(zeroed.parameters()))
    with suppress(Exception):
        trial.run(zeroed, dtype, scale)
    expected = _results(trial, zeroed, dtype)
    actual = _results(trial, trial.removed(subnet, dtype, scale.factors), dtype)
    recorded = _paired([_key(step) for step in steps], [result.key for result in expected])
    repeated = _paired([result.operation for result in expected], [result.operation for result in actual])
    for place, step in enumerate(steps):
        of_zeroed = recorded.get(place)
        of_removed = None if of_zeroed is None else repeated.get(of_zeroed)
        if of_zeroed is not None and of_removed is not None:
            if _differs(expected[of_zeroed].tensors, actual[of_removed].tensors, step, kept):
                return step
    return None


def _results(trial: Trial, model: nn.Module, dtype: torch.dtype | None) -> list[_Result]:
    """Of a run up to its end, or to where it fails."""
    found: list[_Result] = []
    left = _ELEMENTS

    def observe(operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        nonlocal left
        tensors = tuple(flat_tensors(result))
        left -= sum(tensor.numel() for tensor in tensors)
        if left > 0:
            found.append(_Result(operation.name(), tuple(tensor.clone() for tensor in tensors)))

    try:
        with trial.calmly(dtype):
            run_shadow(model, trial.inputs(dtype), observe, meta=False)
    except Exception:
        return found
    return found


def _key(step: Step) -> tuple[Any, ...]:
    shapes = (() if dims is None else tuple(dim.size for dim in dims) for dims in step.outputs)
    return step.operation.name(), tuple(shapes)


def _paired(first: Sequence[Any], second: Sequence[Any]) -> Mapping[int, int]:
    """Places in one run -> those of the same operations in the other."""
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    return {block.a + offset: block.b + offset for block in blocks for offset in range(block.size)}


def _differs(expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor], step: Step, kept: Kept) -> bool:
    for wide, narrow, dims in zip(expected, actual, step.outputs, strict=False):
        if dims is None or len(dims) != wide.dim():
            continue
        for place, dim in enumerate(dims):
            index = torch.from_numpy(np.flatnonzero(kept(dim))).to(wide.device)
            wide = wide.index_select(place, index)
        rounding = torch.finfo(wide.dtype).eps if wide.is_floating_point() or wide.is_complex() else 0.0
        if relative_error([narrow], [wide]) > max(_VISIBLE, ROUNDINGS * rounding) and not bool(wide.isnan().any()):
            return True
    return False
