"""What wraps a model for its training steps, and is made anew when other parameters train than it was made for."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from icycle.errors import TrainingError
from icycle.training._processes import process_count

__all__ = ["Called", "DataParallel"]

_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
# of the constructor, kept as attributes of the same name
_KEPT = (
    "device_ids",
    "output_device",
    "dim",
    "process_group",
    "find_unused_parameters",
    "gradient_as_bucket_view",
    "static_graph",
    "skip_all_reduce_unused_params",
    "batched_grad_copy",
)
_FORWARD_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _ARGUMENTS else "broadcast_buffers"


class DataParallel:
    """A `DistributedDataParallel` wrapper that stays the same object whatever happens to its module's parameters."""

    def __init__(self, wrapper: DistributedDataParallel) -> None:
        if wrapper.mixed_precision is not None:
            raise TrainingError(
                "Expected a DistributedDataParallel that can be built anew, but this one has its own mixed_precision, "
                "which leaves hooks in the model; use torch.autocast instead"
            )
        self._wrapper = wrapper
        self._built_on = _trainable(wrapper.module)

    @property
    def wrapper(self) -> DistributedDataParallel:
        return self._wrapper

    def renew(self) -> None:
        """Build the wrapper anew where channels were removed, or parameters frozen or thawed, since it was built. All
        processes must ask."""
        now = _trainable(self._wrapper.module)
        if not _same(now, self._built_on):
            _rebuild(self._wrapper)
            self._built_on = now


class Called:
    """What the training steps of a run call: the model, in `DistributedDataParallel` where several processes train it,
    and compiled where that is asked for. Once other parameters train, all of it is made anew.

    Args:
        backend: of `torch.compile`; None: nothing is compiled.

    Raises:
        TrainingError: there is no such backend.
    """

    def __init__(self, model: torch.nn.Module, backend: str | None = None) -> None:
        known = torch.compiler.list_backends(exclude_tags=()) if backend else []
        if backend and backend not in known:
            raise TrainingError(f"Expected train.compile to be one of {', '.join(known)}, but got '{backend}'")
        self._model = model
        self._backend = backend
        self._parallel: DistributedDataParallel | None = None
        self._made: torch.nn.Module | None = None
        self._made_for: list[torch.nn.Parameter] = []

    def __call__(self) -> torch.nn.Module:
        if process_count() == 1 and self._backend is None:
            return self._model
        now = _trainable(self._model)
        if self._made is None or not _same(now, self._made_for):
            self._made, self._made_for = self._make(), now
        return self._made

    def alone(self) -> AbstractContextManager[None]:
        """Within the block gradients stay in this process, until those of a batch after it bring them together."""
        self()
        return nullcontext() if self._parallel is None else self._parallel.no_sync()

    def _make(self) -> torch.nn.Module:
        self._parallel = None if process_count() == 1 else _in_parallel(self._model)
        network = self._parallel or self._model
        if self._backend is None:
            return network
        torch.compiler.reset()  # sizes that have changed once are no reason to compile for sizes that change
        compiled: Any = torch.compile(network, backend=self._backend, dynamic=False)
        return compiled


def _in_parallel(model: torch.nn.Module) -> DistributedDataParallel:
    """The model in its wrapper, whatever part of it a forward pass uses."""
    device = next(model.parameters()).device
    options: dict[str, Any] = {
        "device_ids": None if device.type == "cpu" else [device],
        "find_unused_parameters": True,
        _FORWARD_BUFFERS: False,  # they are averaged when somebody reads them: see `share_buffers`
    }
    return DistributedDataParallel(model, **options)


def _trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _same(some: Sequence[torch.nn.Parameter], others: Sequence[torch.nn.Parameter]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _rebuild(wrapper: DistributedDataParallel) -> None:
    """Run the constructor again with its own arguments; the wrapper's hooks and mode stay."""
    options = {name: getattr(wrapper, name) for name in _KEPT if name in _ARGUMENTS}
    options[_FORWARD_BUFFERS] = getattr(wrapper, _FORWARD_BUFFERS)
    if not wrapper.bucket_bytes_cap_default:
        options["bucket_cap_mb"] = wrapper.bucket_bytes_cap / 2**20
    communication = list(wrapper._comm_hooks)
    kept = {name: vars(wrapper)[name] for name in vars(torch.nn.Module()) if "hook" in name or name == "training"}
    DistributedDataParallel.__init__(wrapper, wrapper.module, **options)
    vars(wrapper).update(kept)
    for hook, state in communication:
        wrapper.register_comm_hook(state, hook)
