"""The public removal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from icycle.errors import SurgeryError
from icycle.probing import unwrapped
from icycle.structure import Structure, SubNetwork
from icycle.surgery._apply import apply
from icycle.surgery._plan import make_plan, shapes_of
from icycle.surgery._rehearse import rehearse
from icycle.surgery._sharded import Sharding, require_known_sharding
from icycle.tracing import forget

__all__ = ["prune", "require_followers"]

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None


def prune(
    model: nn.Module,
    structure: Structure,
    subnet: SubNetwork,
    optimizer: Optimizers = None,
    averaged: Sequence[nn.Module] = (),
) -> nn.Module:
    """Remove from `model`, in place, every channel that `subnet` does not keep; returns the model.

    Gradients and the state of `optimizer` are sliced along with the parameters; the parameters are new objects, to
    which the optimizer is rewired. `averaged` are copies of the model (an exponential average, say) that lose the same
    channels. Hooks on parameters move along. Afterwards `structure` is outdated: trace again. Where anything raises, an
    interrupt included, model, optimizers and copies are as they were, or the removal is complete; never half.

    State shaped like its parameter is sliced, and so is state for single dimensions (Adafactor, Shampoo). State of
    which it cannot be told what belongs to a removed channel (the flat history of LBFGS) is refused.

    The plan is first rehearsed on a copy without weights, with the inputs that the structure was traced on.

    A model that FSDP2 (`fully_shard`) has sharded since it was traced, and the state of its optimizer, are sharded anew
    as they were; all processes must remove the same. For a moment each holds one parameter after the other whole.

    Raises SubNetworkError (made for another structure, or removes nothing), SurgeryError (structure of another model,
    applied twice, state that
    cannot be sliced, or the pruned model would not run).
    """
    optimizers, copies = _as_sequence(optimizer), [*map(unwrapped, averaged)]
    require_followers(model, structure, optimizers, copies)
    plan = make_plan(model, structure, subnet)
    # a sharded model cannot be copied; it was traced, and the removal proven, when it was whole
    problem = None if Sharding(model).modules else rehearse(model, structure, plan)
    if problem is not None:
        raise SurgeryError(
            f"Expected {type(model).__name__} to run without {plan.removed} channels, but in the rehearsal it did not: "
            f"{problem}. Nothing was changed; keep more channels, of small groups above all."
        )
    try:
        with torch.inference_mode(False), torch.no_grad():  # or the new parameters could not be trained
            apply(model, plan, optimizers, copies)
    except SurgeryError:
        raise
    except Exception as error:
        raise SurgeryError(
            f"Removing {plan.removed} channels from {type(model).__name__} failed with {type(error).__name__}: "
            f"{error}. The model and its optimizer are as they were."
        ) from error
    for changed in (model, *copies):
        forget(changed)
    return model


def require_followers(
    model: nn.Module, structure: Structure, optimizer: Optimizers, averaged: Sequence[nn.Module]
) -> None:
    """Check that optimizers and averaged copies are those of the model, and can follow it through any removal.

    Raises SurgeryError where they are not, or cannot.
    """
    optimizers = _as_sequence(optimizer)
    require_known_sharding(model, optimizers)
    for copy in map(unwrapped, averaged):
        if not isinstance(copy, nn.Module) or shapes_of(copy) != structure.shapes:
            raise SurgeryError(
                f"Expected averaged copies of {type(model).__name__} as it was traced, but this {type(copy).__name__} "
                "is of another model. Pass copies that have lost the same channels as the model."
            )
    for each in optimizers:
        _check_optimizer(model, each)


def _as_sequence(optimizer: Optimizers) -> Sequence[torch.optim.Optimizer]:
    if optimizer is None:
        return ()
    return list(optimizer) if isinstance(optimizer, Iterable) else [optimizer]


def _check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    own = {id(parameter) for parameter in model.parameters()}
    groups = getattr(optimizer, "param_groups", ())
    if not any(id(parameter) in own for group in groups for parameter in group["params"]):
        raise SurgeryError(
            f"Expected an optimizer of {type(model).__name__}'s parameters, but this {type(optimizer).__name__} holds "
            "none of them. Pass the optimizer that trains the model (of a wrapper, the one inside)."
        )
