"""Accelerate, set up for one run."""

from __future__ import annotations

from typing import Literal

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, parse_flag_from_env

from icycle.errors import TrainingError
from icycle.training._processes import join_processes, launched_processes

__all__ = ["Precision", "make_accelerator", "require_one_process", "run_device"]

Precision = Literal["no", "bf16", "fp16"]

# what `accelerate launch` can be told to do with a model, besides starting processes, and how it tells them
_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}


def make_accelerator(precision: Precision) -> Accelerator:
    """An accelerator with mixed precision as asked, whatever an earlier one in this process used, or the configuration
    of `accelerate launch` says.

    Raises:
        TrainingError: the device cannot compute in `precision`, or `accelerate launch` was told to shard the model.
    """
    _require_whole_models()
    join_processes()
    # Accelerate shares one state per process and refuses a second precision; only the precision part is dropped here.
    AcceleratorState._reset_state()
    try:
        accumulation = GradientAccumulationPlugin(num_steps=1)  # else the launcher's, by which losses are divided
        accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_plugin=accumulation)
    except ValueError as error:
        raise _no_such_precision(precision, str(error)) from error
    if precision != "no" and not accelerator.native_amp:  # Accelerate would go on in float32 without a word
        raise _no_such_precision(precision, "it has no such arithmetic")
    return accelerator


def _require_whole_models() -> None:
    for variable, what in _SHARDING.items():
        if parse_flag_from_env(variable):
            raise TrainingError(
                f"Expected `accelerate launch` to start processes and no more, but it was told to use {what}; a run "
                "trains whole models by DistributedDataParallel: start it with another config, or with torchrun"
            )


def require_one_process(what: str) -> None:
    """Raises TrainingError where several processes were launched, in every one of them; `what` needs one."""
    count = launched_processes()
    if count > 1:
        raise TrainingError(
            f"Expected one process for {what}, but got {count}; start it without torchrun or `accelerate launch`"
        )


def run_device() -> str:
    """The device that a run uses, as torch names it."""
    return str(join_processes())


def _no_such_precision(precision: Precision, reason: str) -> TrainingError:
    return TrainingError(
        f"Expected a device that trains in {precision}, but got {run_device()}: {reason}; "
        "set train.precision to bf16 or no"
    )
