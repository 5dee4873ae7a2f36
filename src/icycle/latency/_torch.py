"""Targets that run in torch itself: eagerly or compiled, on the processor or on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from icycle.errors import LatencyError
from icycle.latency._calls import Call, Tensor
from icycle.latency._memory import peak_activation_bytes
from icycle.latency._targets import Run, Setting, Target, register
from icycle.tracing import call_with, map_tensors

__all__ = ["on", "random_tensor"]


@register
class Eager(Target):
    """torch as it is, on the processor."""

    name = "torch"
    _device = "cpu"

    def network(self, model: nn.Module, inputs: Any, setting: Setting) -> Run:
        model, inputs = on(model, inputs, self._device, setting.dtype)

        @torch.inference_mode()
        def run() -> None:
            call_with(model, inputs)
            self._wait()

        with self._told(setting):
            run()
        return run

    def operation(self, call: Call, sizes: Sequence[int], setting: Setting) -> Run | None:
        arguments, keywords = call.at(sizes)
        operation = _find(call.name)
        if operation is None:
            return None
        with torch.inference_mode():
            arguments, keywords = (self._tensors(part, setting) for part in (arguments, keywords))
            try:
                operation(*arguments, **keywords)
            except Exception:
                return None

        @torch.inference_mode()
        def run() -> None:
            operation(*arguments, **keywords)
            self._wait()

        return run

    def versions(self) -> Mapping[str, str]:
        return {
            **super().versions(),
            "matmul": torch.get_float32_matmul_precision(),
            "onednn": str(torch.backends.mkldnn.enabled),
        }

    def peak_bytes(self, model: nn.Module, inputs: Any, setting: Setting) -> int | None:
        with self._told(setting):
            return peak_activation_bytes(*on(model, inputs, self._device, setting.dtype))

    @contextmanager
    def _told(self, setting: Setting) -> Iterator[None]:
        """What the network raises, as an error that names the precision: its code may have constants of another."""
        try:
            yield
        except Exception as error:
            raise LatencyError(
                f"Expected the network to run on {self.name!r} in {setting.precision}, but it raised "
                f"{type(error).__name__}: {error}; say another precision, or let the model make what it needs of the "
                "type of its input."
            ) from error

    def _tensors(self, value: Any, setting: Setting) -> Any:
        if isinstance(value, Tensor):
            return random_tensor(value, setting.dtype).to(self._device)
        if isinstance(value, torch.device):
            return torch.device(self._device)
        if isinstance(value, tuple):
            return [self._tensors(item, setting) for item in value]
        if isinstance(value, dict):
            return {key: self._tensors(item, setting) for key, item in value.items()}
        return value

    def _wait(self) -> None:
        """Until the device has done its work."""


@register
class Compiled(Eager):
    """`torch.compile` with its defaults, on the processor; operations are timed as they are without it."""

    name = "torch.compile"

    def peak_bytes(self, model: nn.Module, inputs: Any, setting: Setting) -> int | None:
        return None  # what a compiled network keeps in memory is its own affair

    def missing(self) -> str:
        import shutil

        found = any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++"))
        return "" if found else "there is no C++ compiler, which torch.compile needs (Debian: apt-get install g++)"

    def network(self, model: nn.Module, inputs: Any, setting: Setting) -> Run:
        model, inputs = on(model, inputs, self._device, setting.dtype)
        torch.compiler.reset()  # kernels for other widths, so that this network is not taken for one of free sizes
        compiled = torch.compile(model, dynamic=False)
        assert isinstance(compiled, nn.Module)

        @torch.inference_mode()
        def run() -> None:
            call_with(compiled, inputs)

        with self._told(setting):
            run()
        return run


@register
class Cuda(Eager):
    """torch on a CUDA device."""

    name = "cuda"
    _device = "cuda"

    def missing(self) -> str:
        return "" if torch.cuda.is_available() else "torch sees no CUDA device"

    def device(self) -> str:
        return torch.cuda.get_device_name()

    def versions(self) -> Mapping[str, str]:
        cudnn = torch.backends.cudnn
        return {
            **super().versions(),
            "cuda": str(torch.version.cuda),
            "cudnn": str(cudnn.version()),
            "benchmark": str(cudnn.benchmark),
            "convolutions": str(cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else cudnn.allow_tf32),
        }

    def peak_bytes(self, model: nn.Module, inputs: Any, setting: Setting) -> int | None:
        model, inputs = on(model, inputs, self._device, setting.dtype)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with self._told(setting), torch.inference_mode():
            call_with(model, inputs)
        return torch.cuda.max_memory_allocated() - before

    def _wait(self) -> None:
        torch.cuda.synchronize()


def on(model: nn.Module, inputs: Any, device: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """Model and inputs there, floating-point tensors in that type; the model is changed."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return model.to(device, dtype).eval(), map_tensors(inputs, move)


def random_tensor(tensor: Tensor, floating: torch.dtype) -> torch.Tensor:
    """Numbers in 0..1 of that shape, laid out in the same order; of integers zeros, which are valid indices."""
    dtype: torch.dtype = getattr(torch, tensor.dtype)
    shape = [tensor.shape[dim] for dim in tensor.order]
    back = sorted(range(len(shape)), key=tensor.order.__getitem__)
    if dtype.is_floating_point:
        return torch.rand(shape).to(floating).permute(back)
    return torch.zeros(shape, dtype=dtype).permute(back)


def _find(name: str) -> Callable[..., Any] | None:
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if callable(found) else None
