"""Models that FSDP2 (`torch.distributed.fsdp.fully_shard`) has sharded: each process holds a part of every parameter.

A removal makes the whole parameter, keeps what is kept of it, and shards that on the same mesh and along the same
dimension. Gradients and the optimizer's state, which are `DTensor`s as well, follow the same way. FSDP2 itself keeps a
record of each parameter, which holds its sizes and the memory of its part; torch has no public way to renew it, so
here, and nowhere else, its own constructor is run again (torch 2.6 and later).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from icycle.errors import SurgeryError
from icycle.surgery._draft import Swap

__all__ = ["Sharding", "require_known_sharding"]

# of a record: what belongs to its place in the model, and not to the tensor
_PLACE = ("_module_info", "_param_fqn", "_post_load_hook_handle")


class Sharding:
    """The records that FSDP2 keeps of a model's parameters; empty where it has not sharded it."""

    def __init__(self, model: nn.Module) -> None:
        self.modules: list[Any] = [module for module in model.modules() if _is_sharded(module)]
        for module in self.modules:
            module.reshard()  # after an evaluation the root may have whole parameters registered
        self._records: dict[int, tuple[Any, Any]] = {}
        self._renewed: list[tuple[Any, Any]] = []  # record, and what it becomes
        try:
            groups = [group for module in self.modules for group in _groups(module)]
            for group in groups:
                self._records.update({id(record.sharded_param): (record, group) for record in group.fsdp_params})
        except AttributeError as error:
            raise SurgeryError(
                f"Expected FSDP2 as in torch 2.6 and later, but in torch {torch.__version__} there is no "
                f"'{error.name}'; take the channels out before fully_shard"
            ) from error

    def holds(self, parameter: torch.Tensor) -> bool:
        return id(parameter) in self._records

    def part(self, old: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        """This process's part of `data`, the whole of what takes the place of `old`."""
        record, group = self._records[id(old)]
        holder, place = nn.Module(), copy.copy(record._module_info)
        holder.weight = nn.Parameter(data.contiguous(), requires_grad=old.requires_grad)
        place.module, place.param_name, place.shared_modules, place.shared_param_names = holder, "weight", [], []
        fresh = type(record)(
            holder.weight,
            place,
            record.mesh_info,
            record.post_forward_mesh_info,
            record.device,
            lambda _: record.fsdp_placement,
            group.mp_policy,
            group.offload_policy,
        )
        fresh.init_dtype_attrs(group.mp_policy)
        self._renewed.append((record, fresh))
        return fresh.sharded_param

    def remember(self, parameter: torch.Tensor) -> torch.Tensor:
        """Put the parameter made of the last `part` in its record; returns the parameter."""
        self._renewed[-1][1].sharded_param = parameter
        return parameter

    def swaps(self) -> Iterator[Swap]:
        """What renews the records."""
        for record, fresh in self._renewed:
            kept = {name: value for name, value in vars(record).items() if name in _PLACE}
            yield from Swap.refill(vars(record), {**vars(fresh), **kept})


def require_known_sharding(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Check that the parts of model and optimizers can be cut anew.

    Raises:
        SurgeryError: they are sharded by FSDP1 or ZeroRedundancyOptimizer, of which that cannot be said.
    """
    if any(_is_of(module, "torch.distributed.fsdp", "FullyShardedDataParallel") for module in model.modules()):
        raise SurgeryError(
            f"Expected a model that is whole, or sharded by fully_shard (FSDP2), but {type(model).__name__} is in "
            "FullyShardedDataParallel, whose flat parameters have no channels; use torch.distributed.fsdp.fully_shard, "
            "or take the channels out before you wrap it. Nothing was changed."
        )
    if any(_is_of(each, "torch.distributed.optim", "ZeroRedundancyOptimizer") for each in optimizers):
        raise SurgeryError(
            "Expected an optimizer whose state can be cut along with the parameters, but ZeroRedundancyOptimizer gives "
            "each parameter to a process by its size, which a removal changes. Prune without the optimizer and build a "
            "new one; or shard the optimizer's state by fully_shard (FSDP2), which goes through a removal. Nothing was "
            "changed."
        )


def _is_sharded(module: nn.Module) -> bool:
    return _is_of(module, "torch.distributed.fsdp", "FSDPModule")


def _is_of(value: object, package: str, name: str) -> bool:
    """Is it an instance of a class that need not be imported to say that it is not?"""
    return any(kind.__name__ == name and kind.__module__.startswith(package) for kind in type(value).__mro__)


def _groups(module: Any) -> list[Any]:
    state = module._get_fsdp_state()
    several = getattr(state, "_fsdp_param_groups", None)
    if several is not None:
        return list(several)
    return [state._fsdp_param_group] if state._fsdp_param_group is not None else []
