"""What two networks cost, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import safetensors.torch
import torch
from torch import nn

from icycle import latency
from icycle.report._records import AskedLatency, Latency
from icycle.selection import Budget
from icycle.tracing import batch_size
from icycle.training import run_model

__all__ = ["compare_latency", "file_bytes", "latency_where_asked"]


def file_bytes(model: nn.Module) -> int:
    """The size of the model's parameters and buffers as a safetensors file; tied tensors count once."""
    unique = {tensor.data_ptr(): (name, tensor) for name, tensor in model.state_dict().items()}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in unique.values()}
    return len(safetensors.torch.save(state))


@torch.no_grad()
def compare_latency(models: Sequence[nn.Module], inputs: Any, *, runs: int = 40, seconds: float = 3.0) -> list[Latency]:
    """Milliseconds per call of each model on `inputs`, in evaluation mode.

    The models take turns, so that whatever else the machine does meets them alike. Stops after `runs` rounds, or after
    `seconds` once there are five.
    """
    for model in models:
        model.eval()
        for _ in range(2):
            _timed_call(model, inputs)
    times: list[list[float]] = [[] for _ in models]
    deadline = time.perf_counter() + seconds
    while len(times[0]) < runs and (len(times[0]) < 5 or time.perf_counter() < deadline):
        for taken, model in zip(times, models, strict=True):
            taken.append(1e3 * _timed_call(model, inputs))
    return [_summary(taken) for taken in times]


def latency_where_asked(models: Sequence[nn.Module], inputs: Any, budget: Budget) -> AskedLatency:
    """Of the dense model and the pruned one, timed in turn, as the budget's latency is meant: its target, threads and
    precision; on `inputs` of its batch."""
    batch = batch_size(inputs)
    networks = dict(zip(("dense", "pruned"), models, strict=True))
    found = latency.bench(
        networks, {batch: inputs}, budget.target, threads=budget.threads, precision=budget.precision, seconds=3.0
    )
    own = [_summary([1e3 * seconds for seconds in one.timing.readings]) for one in found]
    return AskedLatency(budget.target, batch, *own)


def _timed_call(model: nn.Module, inputs: Any) -> float:
    start = time.perf_counter()
    run_model(model, inputs)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _summary(times: list[float]) -> Latency:
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Latency(median=median, lower=lower, upper=upper, runs=len(times))
