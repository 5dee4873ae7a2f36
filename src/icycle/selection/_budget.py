"""What a sub-network may cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from icycle.errors import BudgetError
from icycle.selection._refine import CostFunction

__all__ = ["Budget", "Tightest"]

_COSTS = ("macs", "params", "activation_bytes", "memory", "latency")
_PRECISIONS = ("float64", "float32", "bfloat16", "float16")
_UNITS = {  # of costs that may be said with a unit: in milliseconds, and in bytes
    "latency": {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
    "memory": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
}
_SAID = {"latency": "a time with its unit, such as '12.5 ms'", "memory": "an amount with its unit, such as '1.5 MB'"}
_AMOUNT = re.compile(r"\s*(?P<number>\d+(\.\d*)?(e-?\d+)?)\s*(?P<unit>\S+)\s*")


@dataclass(frozen=True)
class Budget:
    """How much of one or more costs to keep; all of them must hold.

    `Budget(macs=0.5)` keeps half the multiply-accumulates, `Budget(params=250_000)` a quarter of a million parameters,
    `Budget(latency=0.5, params=0.6)` half the time and at most six tenths of the parameters. A number in 0..1 is a kept
    fraction, an int above 1 a count; a time says its unit: `Budget(latency="12.5 ms")`, and memory may:
    `Budget(memory="1.5 MB")`.

    Args:
        macs, params, activation_bytes: costs of the structure.
        memory: bytes that results of operations take at once, at the most: neither parameters nor inputs count, nor
            what an operation needs only while it runs. It follows from the structure; given the model, `select` checks
            it against a run.
        latency: of one batch; a fraction of the dense network's, or a time such as "800 us", "12.5 ms", "0.1 s". It is
            measured, so `select` needs the model.
        target: where latency and memory are measured: a name out of `icycle.latency.targets()`. Memory cannot be
            measured on all of them.
        batch: examples in a batch; as in the traced example when omitted.
        threads: of the processor; those that torch uses at present when omitted.
        precision: "float32", "bfloat16", "float16" or "float64"; the model's own when omitted.

    Raises:
        BudgetError: no cost is given, or a value is out of range.
    """

    macs: float | None = None
    params: float | None = None
    activation_bytes: float | None = None
    memory: float | str | None = None
    latency: float | str | None = None
    target: str = "torch"
    batch: int | None = None
    threads: int | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise BudgetError(
                f"Expected at least one of {', '.join(_COSTS)}, but got none; write Budget(macs=0.5), say."
            )
        for name in self.names:
            _check_value(name, getattr(self, name))
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < 1):
                raise BudgetError(f"Expected {name} as an int of at least 1, but got {value!r}.")
        if self.precision not in (None, *_PRECISIONS):
            raise BudgetError(f"Expected precision as one of {', '.join(_PRECISIONS)}, but got {self.precision!r}.")

    @property
    def names(self) -> tuple[str, ...]:
        """The costs that were given."""
        return tuple(name for name in _COSTS if getattr(self, name) is not None)

    def allowed(self, name: str, full: float) -> float:
        """How much of the cost `name` a sub-network may have, where the whole network has `full` (of latency:
        milliseconds)."""
        value = getattr(self, name)
        if isinstance(value, str):
            value = _amount(name, value)
        elif not _is_count(value):
            return float(value) * full
        if value > full and name != "latency":
            unit = "bytes of " if name == "memory" else ""
            raise BudgetError(
                f"Expected a budget of at most the whole network's {full:,} {unit}{name}, but got {value:,.0f}; "
                f"give less, or a fraction such as {name}=0.5."
            )
        return float(value)

    def costs_in(self, costs: Mapping[str, CostFunction]) -> dict[str, CostFunction]:
        """The budget's costs out of `costs`."""
        missing = [name for name in self.names if name not in costs]
        if missing:
            hint = (
                "; a latency is measured: pass the model, icycle.select(structure, scores, budget, model=model)"
                if missing[0] == "latency"
                else ""
            )
            raise BudgetError(
                f"Expected the cost {missing[0]!r} of the budget among {', '.join(sorted(costs))}, but it is not "
                f"there{hint}."
            )
        return {name: costs[name] for name in self.names}

    def __str__(self) -> str:
        return " and ".join(self._words())

    def _words(self) -> Iterator[str]:
        for name in self.names:
            value = getattr(self, name)
            if isinstance(value, str):
                amount = f"{value.strip()} of {name}"
            elif _is_count(value):
                amount = f"{value:,} {'bytes of ' if name == 'memory' else ''}{name}"
            else:
                amount = f"{value:.1%} of the {name}"
            yield f"{amount} on {self.target}" if name == "latency" else amount


class Tightest:
    """Several costs as one: the largest share that any of them has of what it may be.

    `allowed` maps each cost's name to how much of it a sub-network may have. The shares are floats; 1 just meets every
    one of them.
    """

    def __init__(self, costs: Mapping[str, CostFunction], allowed: Mapping[str, float]) -> None:
        self._costs = dict(costs)
        self._allowed = dict(allowed)

    def __call__(self, counts: np.ndarray) -> float:
        return max(self._shares(counts).values())

    def gradient(self, counts: np.ndarray) -> np.ndarray:
        """That of the cost that binds."""
        shares = self._shares(counts)
        name = max(shares, key=shares.__getitem__)
        return self._costs[name].gradient(counts) / self._allowed[name]

    def _shares(self, counts: np.ndarray) -> dict[str, float]:
        return {name: cost(counts) / self._allowed[name] for name, cost in self._costs.items()}


def _check_value(name: str, value: object) -> None:
    if name in _UNITS and isinstance(value, str):
        found = _AMOUNT.fullmatch(value)
        if found is None or found["unit"] not in _UNITS[name] or _amount(name, value) <= 0:
            units = ", ".join(_UNITS[name])
            raise BudgetError(f"Expected {name} as {_SAID[name]} (out of {units}), but got {value!r}.")
        return
    if name != "latency" and _is_count(value):
        return
    if not (isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) <= 1):
        others = [*([] if name == "latency" else ["a count (int > 1)"]), *([_SAID[name]] if name in _SAID else [])]
        raise BudgetError(
            f"Expected {name} as a kept fraction (0 < float <= 1) or {' or '.join(others)}, but got {value!r}."
        )


def _amount(name: str, text: str) -> float:
    """Milliseconds, or bytes."""
    found = _AMOUNT.fullmatch(text)
    assert found is not None  # checked when the budget was made
    return float(found["number"]) * _UNITS[name][found["unit"]]


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 1
