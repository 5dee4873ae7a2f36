"""What a sub-network may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real

from icycle.errors import BudgetError
from icycle.structure import Cost

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """One cost and how much of it to keep: a fraction (float in 0..1) or an absolute count (int above 1).

    `Budget(macs=0.5)` keeps half the multiply-accumulates, `Budget(params=250_000)` a quarter of a million
    parameters. Each field names a cost of the structure; `latency` needs a measured one, given to `select` as
    `costs={"latency": ...}`.

    Raises:
        BudgetError: not exactly one field is given, or its value is out of range.
    """

    macs: float | None = None
    params: float | None = None
    activation_bytes: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        given = self._given()
        if len(given) != 1:
            names = ", ".join(field.name for field in fields(self))
            raise BudgetError(
                f"Expected exactly one of {names}, but got {given or 'none'}; write Budget(macs=0.5), say."
            )
        ((name, value),) = given.items()
        if not _is_count(value) and not (isinstance(value, Real) and not isinstance(value, bool) and 0 < value <= 1):
            raise BudgetError(
                f"Expected {name} as a kept fraction (0 < float <= 1) or a count (int > 1), but got {value!r}."
            )

    def _given(self) -> dict[str, float]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def name(self) -> str:
        """The name of the cost."""
        return next(iter(self._given()))

    @property
    def value(self) -> float:
        """The fraction or count that was asked for."""
        return self._given()[self.name]

    def cost_in(self, costs: Mapping[str, Cost]) -> Cost:
        """The budget's cost out of `costs`."""
        if self.name not in costs:
            known = ", ".join(sorted(costs))
            hint = "; measure it on the device first" if self.name == "latency" else ""
            raise BudgetError(
                f"Expected the cost {self.name!r} of the budget among {known}, but it is not there{hint}."
            )
        return costs[self.name]

    def target(self, full: int) -> float:
        """What the sub-network may cost, where the whole network costs `full`."""
        if not _is_count(self.value):
            return self.value * full
        if self.value > full:
            raise BudgetError(
                f"Expected a budget of at most the whole network's {full:,} {self.name}, but got {self.value:,}; "
                f"give less, or a fraction such as {self.name}=0.5."
            )
        return self.value

    def __str__(self) -> str:
        return f"{self.value:,} {self.name}" if _is_count(self.value) else f"{self.value:.1%} of the {self.name}"


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 1
