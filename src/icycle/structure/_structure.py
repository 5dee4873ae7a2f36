"""What a trace found out, frozen: groups, where their channels lie in the parameters, and exact costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from icycle.axes import Polynomial
from icycle.errors import StructureError
from icycle.structure._cost import Cost
from icycle.structure._describe import table
from icycle.structure._group import Group
from icycle.structure._layout import Layout, fingerprint
from icycle.structure._memory import Peak
from icycle.structure._operations import Operation
from icycle.structure._subnetwork import SubNetwork
from icycle.tracing import Caches, Edit

__all__ = ["Attribute", "Example", "Rewrite", "Structure"]


_PROOFS = {
    "numbers": "proven in numbers and over shapes",
    "shapes": "proven over shapes, not in numbers",
}


@dataclass(frozen=True)
class Attribute:
    """An integer attribute of a module that must follow a count: `module` is its path, `item` its place in a tuple."""

    module: str
    name: str
    item: int | None
    value: Polynomial  # in group numbers


@dataclass(frozen=True)
class Rewrite:
    """An edit of the code of the module at `path`, needed once one of these groups loses channels: numbers in
    `Structure.prunable`."""

    path: str
    edit: Edit
    groups: frozenset[int]


@dataclass(frozen=True, eq=False)
class Example:
    """What a removal is rehearsed with: the traced inputs (floats without data where `meta`), and the output shapes;
    `hooks` says whether the model needs the hooks on its modules. `also` are further inputs and output shapes."""

    inputs: Any
    meta: bool
    hooks: bool
    output_shapes: tuple[tuple[int, ...], ...]
    also: tuple[tuple[Any, tuple[tuple[int, ...], ...]], ...] = ()


@dataclass(frozen=True, eq=False)
class Structure:
    """The frozen result of a trace; it never refers to the model."""

    groups: tuple[Group, ...]
    layouts: Mapping[str, tuple[Layout, ...]]  # parameter or buffer -> a layout per dimension
    costs: Mapping[str, Cost | Peak]  # "macs", "params", "activation_bytes", "memory"
    attributes: tuple[Attribute, ...]
    notes: tuple[str, ...] = ()
    example: Example | None = None
    rewrites: tuple[Rewrite, ...] = ()
    caches: Caches = frozenset()  # what modules keep of results, outdated by a removal
    operations: Sequence[Operation] = ()  # of the run in evaluation mode, in order
    proof: str = "shapes"  # "numbers" where removing was compared with zeroing on real values, too
    unknown_operations: Mapping[str, int] = field(default_factory=dict)  # name -> how often it ran without a rule

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the names and shapes of all parameters and buffers, and of what is coupled with what."""
        return fingerprint(self.layouts)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all parameters and buffers."""
        return {name: tuple(layout.size for layout in layouts) for name, layouts in self.layouts.items()}

    @cached_property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that channels may be removed from, front to back."""
        return tuple(group for group in self.groups if group.prunable)

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    def __getitem__(self, name: str) -> Group:
        try:
            return self._by_name[name]
        except KeyError:
            raise StructureError(
                f"Expected the name of a group, but got {name!r}; "
                f"structure.groups lists all {len(self.groups)} of them."
            ) from None

    def macs(self, subnet: SubNetwork | None = None) -> int:
        """Multiply-accumulates of convolutions and matrix products on the example inputs, for `subnet` or the whole."""
        return self.cost("macs", subnet)

    def params(self, subnet: SubNetwork | None = None) -> int:
        """Number of parameter elements (tied ones once, buffers not), for `subnet` or the whole."""
        return self.cost("params", subnet)

    def activation_bytes(self, subnet: SubNetwork | None = None) -> int:
        """Bytes of all results of convolutions, products and norms on the example inputs."""
        return self.cost("activation_bytes", subnet)

    def memory(self, subnet: SubNetwork | None = None) -> int:
        """The most bytes that results of operations take at once on the example inputs: neither parameters nor inputs
        count, nor what an operation needs only while it runs."""
        return self.cost("memory", subnet)

    def prunable_share(self, name: str) -> float:
        """The share, 0..1, of the cost called `name` that would go if one channel were left in every prunable group."""
        least = np.ones(len(self.prunable), dtype=np.int64)
        return 1 - self.costs[name](least) / max(self.cost(name), 1)

    def table(self) -> str:
        """A row per group, front to back (its size, whether it can be removed from, its parameters or why it stays),
        then `totals`."""
        return "\n".join((*table(self.groups), *self.totals()))

    def totals(self) -> tuple[str, ...]:
        """How much is prunable and how it was proven, what had no rule, and the notes: a line each."""
        channels = sum(group.size for group in self.prunable)
        macs, params = (f"{self.prunable_share(name):.1%}" for name in ("macs", "params"))
        unknown = (
            f"no rule for {name}, met {'once' if count == 1 else f'{count} times'}: what it touches is pinned "
            "(docs/rules.md says how to register one)"
            for name, count in self.unknown_operations.items()
        )
        return (
            f"{len(self.prunable)} prunable groups of {channels:,} channels, "
            f"{len(self.groups) - len(self.prunable)} pinned; {_PROOFS[self.proof]}",
            f"{self.macs():,} MACs and {self.params():,} parameters, of which {macs} and {params} would go if one "
            "channel were left in every prunable group",
            *unknown,
            *self.notes,
        )

    def __repr__(self) -> str:
        channels = sum(group.size for group in self.prunable)
        return (
            f"Structure({len(self.prunable)} prunable groups of {channels:,} channels, "
            f"{len(self.groups) - len(self.prunable)} pinned; {self.macs():,} MACs, {self.params():,} parameters)"
        )

    def __str__(self) -> str:
        return self.table()

    def cost(self, name: str, subnet: SubNetwork | None = None) -> int:
        """The cost called `name` of `subnet`, or of the whole network."""
        if subnet is None:
            counts = np.array([group.size for group in self.prunable], dtype=np.int64)
        else:
            counts = subnet.counts(self)
        return self.costs[name](counts)
