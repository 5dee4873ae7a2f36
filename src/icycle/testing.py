"""The proof that anyone can run on any model: a removal gives the same function as zeroing, at the predicted cost."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from icycle.artifacts import load, save
from icycle.engine import Calm, relative_error, seeded, trace
from icycle.errors import StructureError
from icycle.structure import Structure, SubNetwork
from icycle.surgery import prune, zero
from icycle.tracing import call_with, copy_of, map_tensors, output_tensors, undisturbed

__all__ = ["Check", "Verification", "exact_part", "removal_error", "verify", "zero"]

_VISIBLE = 1e-5  # a larger error may come of rounding where that decides what comes first
_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}  # relative, of removing against zeroing


def removal_error(
    model: nn.Module, example_inputs: Any, subnet: SubNetwork, structure: Structure | None = None
) -> float:
    """Relative error, in eval mode, of removing what `subnet` removes from exact groups against zeroing it.

    Those are the groups that `structure` calls exact; without it the model is traced anew, with the trial in numbers.
    The others are kept whole for it. The result is the largest ||removed - zeroed|| / ||zeroed|| over the outputs of
    floating-point or complex numbers: 0 where nothing is removed, about 1e-7 in float32 where the proof holds. It is
    `inf` where an output of integers or booleans differs, or where anything is not a number. What rounding decides (the
    order of equal values, say) is no error: an output counts only where it differs by more than it does when the zeroed
    weights change in their last digits. Both runs start from the same random state, in which random numbers are
    constants; neither model nor inputs are changed. Raises SubNetworkError where `subnet` is not of this model."""
    structure = trace(model, example_inputs) if structure is None else structure
    exact = exact_part(structure, subnet)
    if all(bool(kept.all()) for kept in exact.keep.values()):
        return 0.0
    zeroed, removed = copy_of(model).eval(), copy_of(model).eval()
    zero(zeroed, structure, exact)
    prune(removed, structure, exact)
    expected, actual = _outputs(zeroed, example_inputs), _outputs(removed, example_inputs)
    found = relative_error(actual, expected)
    if found <= _VISIBLE or len(actual) != len(expected):
        return found
    _disturb(zeroed)
    return max(map(_beyond_rounding, actual, expected, _outputs(zeroed, example_inputs)))


def exact_part(structure: Structure, subnet: SubNetwork) -> SubNetwork:
    """`subnet` with every group that is not exact kept whole."""
    subnet.masks(structure)
    return subnet.within({group.name for group in structure.prunable if group.exact})


def _outputs(model: nn.Module, example_inputs: Any) -> list[torch.Tensor]:
    with undisturbed(model), seeded(), torch.no_grad(), Calm():
        return [tensor.clone() for tensor in output_tensors(call_with(model, copy_of(example_inputs)))]


def _beyond_rounding(actual: torch.Tensor, expected: torch.Tensor, rounded: torch.Tensor) -> float:
    """The error of one output; 0 where `rounded`, for which only the last digits of weights changed, is as far off."""
    error = relative_error([actual], [expected])
    same_kind = actual.shape == expected.shape and not bool(actual.isnan().any() or expected.isnan().any())
    return 0.0 if same_kind and error <= 10 * relative_error([rounded], [expected]) else error


@torch.no_grad()
def _disturb(model: nn.Module) -> None:
    """Change every weight by a rounding or two."""
    dice = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            noise = torch.rand(parameter.shape, generator=dice, dtype=torch.float64, device="cpu") * 2 - 1
            change = 1 + 4 * torch.finfo(parameter.dtype).eps * noise
            parameter.copy_((parameter.double() * change.to(parameter.device)).to(parameter.dtype))


# ---- all that a removal promises ----


@dataclass(frozen=True)
class Check:
    """One promise: whether it `held` (None where the model as it is cannot be put to this test), and what was found."""

    name: str
    held: bool | None
    found: str


@dataclass(frozen=True)
class Verification:
    """What came of removing a random part of every prunable group from a copy of a model."""

    structure: Structure
    subnet: SubNetwork
    checks: tuple[Check, ...]

    @property
    def held(self) -> bool:
        """True where no promise was broken."""
        return all(check.held is not False for check in self.checks)


def verify(model: nn.Module, example_inputs: Any, *, ratio: float = 0.5, seed: int = 0) -> Verification:
    """Remove int(ratio * size) random channels of every prunable group from copies of `model`, and check every promise.

    Removing equals zeroing over the exact groups, in float64 and float32; MACs and parameters are what the structure
    says; outputs keep their shapes; a saved and loaded model is the same to the bit; one training step runs. The model
    is not changed. Raises StructureError where nothing is prunable.
    """
    structure = trace(model, example_inputs)
    if not structure.prunable:
        raise StructureError(
            f"Expected a group of channels that can be removed from {type(model).__name__}, but all "
            f"{len(structure.groups)} are pinned. `icycle inspect`, or print(structure), says why."
        )
    subnet = SubNetwork.random(structure, ratio, seed)
    dense = copy_of(model)
    pruned = prune(copy_of(model), structure, subnet)

    def check(name: str, test: Callable[..., tuple[bool | None, str]], *arguments: Any) -> Check:
        try:
            return Check(name, *test(*arguments))
        except Exception as error:
            return Check(name, False, _first_line(error))

    checks = (
        check("removing equals zeroing, in float64", _removal, dense, example_inputs, structure, subnet, torch.float64),
        check("removing equals zeroing, in float32", _removal, dense, example_inputs, structure, subnet, torch.float32),
        check("multiply-accumulates are as predicted", _macs, pruned, example_inputs, structure.macs(subnet)),
        check("parameters are as predicted", _params, pruned, structure.params(subnet)),
        check("outputs keep their shapes", _shapes, dense, pruned, example_inputs),
        check("a loaded model is the saved one", _saved, dense, pruned, example_inputs),
        check("a training step runs", _training, dense, pruned, example_inputs),
    )
    return Verification(structure, subnet, checks)


def _removal(
    model: nn.Module, inputs: Any, structure: Structure, subnet: SubNetwork, dtype: torch.dtype
) -> tuple[bool | None, str]:
    exact = sum(group.exact for group in structure.prunable)
    if not exact:
        return None, "no group is exact"
    model, inputs = copy_of(model).to(dtype), map_tensors(inputs, lambda tensor: _cast(tensor, dtype))
    try:
        _run(model, inputs)
    except Exception as error:
        return None, f"the model itself does not run: {_first_line(error)}"
    found, allowed = removal_error(model, inputs, subnet), _TOLERANCES[dtype]
    text = f"relative error {found:.1e}, allowed {allowed:.0e}, over {exact} of {len(structure.prunable)} groups"
    return found <= allowed, text


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _macs(pruned: nn.Module, inputs: Any, predicted: int) -> tuple[bool, str]:
    """Against torch's own counter, which does not see into mkldnn's recurrent layers, nor into all fused attention."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch warns of what it would do on other hardware
        counted = copy_of(pruned).requires_grad_(False)  # the counter hangs hooks on whatever needs a gradient
        with (
            torch.backends.mkldnn.flags(enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            _run(counted, inputs)
    return _agree(predicted, counter.get_total_flops() // 2)


def _params(pruned: nn.Module, predicted: int) -> tuple[bool, str]:
    return _agree(predicted, sum(parameter.numel() for parameter in pruned.parameters()))


def _agree(predicted: int, counted: int) -> tuple[bool, str]:
    if predicted == counted:
        return True, f"{counted:,}"
    return False, f"{counted:,}, but {predicted:,} were predicted"


def _shapes(model: nn.Module, pruned: nn.Module, inputs: Any) -> tuple[bool, str]:
    expected, actual = ([tuple(out.shape) for out in _run(one, inputs)] for one in (model, pruned))
    if expected == actual:
        return True, f"{len(actual)} output" + "s" * (len(actual) != 1)
    return False, f"{actual}, but {expected} before the removal"


def _saved(model: nn.Module, pruned: nn.Module, inputs: Any) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(save(pruned, Path(folder) / "model"), copy_of(model))
    one, two = pruned.state_dict(), loaded.state_dict()
    if one.keys() != two.keys() or not all(_same(one[key], two[key]) for key in one):
        return False, "parameters or buffers differ"
    same = all(_same(a, b) for a, b in zip(_run(pruned, inputs), _run(loaded, inputs), strict=True))
    return same, "equal to the bit" if same else "outputs differ"


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def _training(model: nn.Module, pruned: nn.Module, inputs: Any) -> tuple[bool | None, str]:
    """On the example, or, where the model itself refuses a batch of one, on the example twice."""
    twice = map_tensors(inputs, lambda tensor: torch.cat((tensor, tensor)) if tensor.shape[:1] == (1,) else tensor)
    refused = ""
    for batch in (inputs, twice):
        try:
            _train_once(copy_of(model), batch)
        except Exception as error:
            refused = refused or _first_line(error)
        else:
            return True, f"loss {_train_once(copy_of(pruned), batch):.3g}"
    return None, f"the model itself does not train on the example: {refused}"


def _train_once(model: nn.Module, inputs: Any) -> float:
    """One step of SGD on the mean of the outputs, which is returned."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with undisturbed(model):
        outputs = output_tensors(call_with(model, inputs))
        loss = torch.stack([out.float().mean() for out in outputs if out.is_floating_point()]).sum()
        loss.backward()
        optimizer.step()
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise ArithmeticError("parameters are not finite after the step")
    return float(loss.detach())


def _run(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    """All outputs in evaluation mode, to which the model is set."""
    with undisturbed(model), torch.no_grad():
        return list(output_tensors(call_with(model.eval(), inputs)))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
