"""The proof over shapes: remove a different share of every group on a shadow. What goes wrong, pins; what changes a
number that an operation is given, is not exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from icycle.axes import leaves, mark_inexact, pin
from icycle.engine._choices import unequal
from icycle.engine._compare import said
from icycle.engine._dry_run import Fault, dry_run
from icycle.engine._halves import at_fault
from icycle.engine._marks import free_axes
from icycle.errors import TraceError
from icycle.reasons import Kind, Reason
from icycle.structure import Structure, SubNetwork, build
from icycle.surgery import apply, make_plan
from icycle.tracing import Trace, output_tensors, run_shadow, shadow_inputs, shadow_of, undisturbed

__all__ = ["further_examples", "prove_in_shapes"]


Shapes = tuple[tuple[int, ...], ...]


def further_examples(model: nn.Module, found: Trace, also: Sequence[Any]) -> tuple[tuple[Any, Shapes], ...]:
    """Further inputs, without data where the trace was, and the shapes of the outputs that the model gives for them."""
    examples = []
    for number, example in enumerate(also, 2):
        inputs = shadow_inputs(example, found.meta, False, lambda tensor: True)
        shapes = _output_shapes(model, found, inputs, lambda shadow: None)
        if isinstance(shapes, str):
            raise TraceError(
                f"Expected {type(model).__name__} to run on every example, but on example {number} it raised "
                f"{shapes}. Pass inputs with which model(...) works."
            )
        examples.append((inputs, shapes))
    return tuple(examples)


def _output_shapes(model: nn.Module, found: Trace, inputs: Any, change: Callable[[nn.Module], None]) -> Shapes | str:
    """Of the outputs of a changed shadow; in words what it raises."""
    shadow = shadow_of(model, found.meta, found.caches, found.hooks).eval()
    try:
        with undisturbed(model):
            change(shadow)
            outputs = run_shadow(shadow, inputs, lambda *observed: None, found.meta)
    except Exception as error:
        return said(error)
    return tuple(tuple(tensor.shape) for tensor in output_tensors(outputs))


def prove_in_shapes(model: nn.Module, example_inputs: Any, found: Trace) -> Structure:
    """The structure of which a removal gives every shape that was predicted, and on further examples outputs of the
    same shapes as before. A fault costs the groups that show it."""
    shadow = found.shadow
    while True:  # every pass but the last pins a group, or finds one inexact
        structure = build(found)
        if not structure.prunable:
            return structure
        proof = _Shapes(model, example_inputs, found, structure)
        fault = proof.run(proof.subnet, shadow)
        mended = fault is not None and proof.mended(fault)
        if not mended and not any(proof.pinned_by(number) for number in range(len(found.also))):
            return structure
        found.settle()
        shadow = proof.shadow()


class _Shapes:
    """Dry runs of one structure."""

    def __init__(self, model: nn.Module, example_inputs: Any, found: Trace, structure: Structure) -> None:
        self._model, self._example, self._found, self._structure = model, example_inputs, found, structure
        self._axes = free_axes(found, structure)
        self.subnet = unequal(structure)

    def shadow(self) -> nn.Module:
        found = self._found
        return shadow_of(self._model, found.meta, found.caches, found.hooks)

    def run(self, subnet: SubNetwork, shadow: nn.Module) -> Fault | None:
        """What goes wrong without what `subnet` removes."""
        whole = all(bool(kept.all()) for kept in subnet.keep.values())
        plan = None if whole else make_plan(shadow, self._structure, subnet)
        counts = {self._axes[name].created: int(kept.sum()) for name, kept in subnet.keep.items()}
        return dry_run(shadow, self._example, self._found, plan, counts)

    def pinned_by(self, number: int) -> bool:
        """Whether a further example does not run after the removal as before, and the groups at fault were pinned."""
        inputs, expected = self._found.also[number]

        def fails(names: Sequence[str]) -> bool:
            subnet = self.subnet.within(names)
            shapes = _output_shapes(
                self._model,
                self._found,
                inputs,
                lambda shadow: apply(shadow, make_plan(shadow, self._structure, subnet)),
            )
            return shapes != expected

        names = list(self._axes)
        if not fails(names):
            return False
        for name in at_fault(names, fails):
            pin(self._axes[name], Reason(Kind.DRY_RUN, f"another output on example {number + 2}"))
        return True

    def mended(self, fault: Fault) -> bool:
        """Find the groups behind a fault, and pin them, or call them inexact; False where none is at fault that was not
        inexact before."""
        if fault.number:
            return self._mark_at_fault(fault)
        self._pin_at_fault(fault)
        return True

    def _mark_at_fault(self, fault: Fault) -> bool:
        """Of the groups whose count became a number."""

        def counts(names: Sequence[str]) -> bool:
            found = self._run_part(names)
            return found is not None and found.number

        exact = [group.name for group in self._structure.prunable if group.exact]
        if counts([]) or not counts(exact):  # a number drawn at random is another in every run
            return False
        for name in at_fault(exact, counts):
            own = self._run_part([name]) or fault
            mark_inexact(self._axes[name], Reason(Kind.SIZE_AS_NUMBER, "", *own.steps[-1].place))
        return True

    def _pin_at_fault(self, fault: Fault) -> None:
        """Those that the operations in doubt touch come first."""
        names = list(self._axes)
        if self._run_part([]) is not None:
            self._pin(names, "another result without any removal", fault)
            return
        near = self._near(fault)
        suspects = near if near and self._run_part(near) is not None else names
        for name in at_fault(suspects, lambda some: self._run_part(some) is not None):
            own = self._run_part([name]) or fault
            self._pin([name], own.problem, own)

    def _run_part(self, names: Sequence[str]) -> Fault | None:
        return self.run(self.subnet.within(names), self.shadow())

    def _near(self, fault: Fault) -> list[str]:
        """The groups of the dimensions that the operations in doubt touch."""
        dims = [dim for step in fault.steps for own in (*step.inputs, *step.outputs) for dim in own or ()]
        touched = {axis.created for dim in dims for axis in leaves(dim)}
        return [name for name, axis in self._axes.items() if axis.created in touched]

    def _pin(self, names: Sequence[str], problem: str, fault: Fault) -> None:
        for name in names:
            pin(self._axes[name], Reason(Kind.DRY_RUN, problem, *fault.steps[-1].place))
