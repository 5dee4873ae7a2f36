"""Targets that run ONNX graphs: ONNX Runtime on the processor and with TensorRT, and OpenVINO.

They fuse what torch runs one by one: normalisation goes into the convolution before it, and so do simple activations.
So only the operations that such a runtime keeps are timed, each as a graph of its own. In such a graph images are laid
out anew before and after a convolution, which a whole network does only at its ends: the runtime's own profile tells
how long that takes, and it is left out.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from icycle.errors import LatencyError
from icycle.export import arrays, inputs_read, onnx_model
from icycle.latency._calls import Call, Tensor
from icycle.latency._targets import Run, Setting, Target, register
from icycle.latency._timing import USUAL
from icycle.latency._torch import random_tensor

__all__ = ["graph_of"]

Node = tuple[str, dict[str, Any]]  # ONNX operator, attributes

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}  # OpenVINO's names

_OPSET = 20
_LAID_OUT = ("convolution", "max_pool2d_with_indices", "avg_pool2d")  # operations before which images are laid out anew
_PROFILED, _RUNS = 0.015, (4, 20)  # seconds that a profile should see, and runs, at least and at most
_PROFILES = 4  # at most, where something else disturbs them
_LONG = 2e-4  # seconds from where on a profile, in microseconds and with some of its own, is exact enough by itself


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class _Runtime(Target):
    """What the runtimes share: graphs from networks and from operations."""

    packages: tuple[str, ...] = ()
    moments = 3  # as a graph has to be made each time

    def missing(self) -> str:
        absent = [package for package in self.packages if not _version(package)]
        return f"the package {absent[0]} is not installed (pip install 'icycle[export]')" if absent else ""

    def versions(self) -> Mapping[str, str]:
        return {package: _version(package) for package in self.packages}

    def network(self, model: nn.Module, inputs: Any, setting: Setting) -> Run:
        graph = onnx_model(model.cpu().to(torch.float32), inputs, dynamic_batch=False)
        return self.graph(graph, arrays(inputs), setting, alone=False)

    def operation(self, call: Call, sizes: Sequence[int], setting: Setting) -> Run | None:
        made = graph_of(call, sizes)
        if made is None:
            return None
        try:
            return self.graph(*made, setting)
        except LatencyError:
            raise
        except Exception:  # of types that the runtime does not have it for, say
            return None

    def seconds(self, call: Call, sizes: Sequence[int], setting: Setting) -> float:
        made = graph_of(call, sizes) if call.name.split(".")[1] in _LAID_OUT else None
        if made is None:
            return super().seconds(call, sizes, setting)
        working, share = min(self._working(*made, setting))
        return working if working > _LONG else super().seconds(call, sizes, setting) * share

    def _working(self, graph: bytes, inputs: Sequence[np.ndarray], setting: Setting) -> Iterator[tuple[float, float]]:
        """Seconds in which a graph does not lay out images anew, and which share of its time that is; until nothing
        disturbed the profile, but a few times at most."""
        for _ in range(_PROFILES):
            disturbed, start = self.watch(), self.clock()
            kernels = self.profile(graph, inputs, setting)
            calm = not disturbed(self.clock() - start)
            moving = np.array([kind.startswith("Reorder") for kind, _ in kernels])
            seconds = np.stack([taken for _, taken in kernels], 1)
            working = seconds[:, ~moving]
            yield float(np.quantile(working.sum(axis=1), USUAL)), float(working.sum() / max(seconds.sum(), 1e-9))
            if calm:
                return

    def profile(self, graph: bytes, inputs: Sequence[np.ndarray], setting: Setting) -> list[tuple[str, np.ndarray]]:
        """Kind of every kernel of a graph, and its seconds in some runs, (runs,), by the runtime's own account."""
        raise NotImplementedError

    def overhead(self, setting: Setting) -> Run | None:
        return self.graph(*_graph([("Identity", {})], [np.zeros((1, 1), np.float32)], (), ((1, 1),)), setting)

    def graph(self, graph: bytes, inputs: Sequence[np.ndarray], setting: Setting, alone: bool = True) -> Run:
        """Something that runs a serialised graph on `inputs`, in the order of the graph's; not `alone` where another
        may run in turn with it."""
        raise NotImplementedError


@register
class OnnxRuntime(_Runtime):
    """ONNX Runtime on the processor, with all its optimisations."""

    name = "onnxruntime"
    packages: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")
    precisions: tuple[str, ...] = ("float32",)  # on the processor it has next to no operation in another

    def graph(self, graph: bytes, inputs: Sequence[np.ndarray], setting: Setting, alone: bool = True) -> Run:
        return self._session(graph, inputs, setting, alone)[1]

    def profile(self, graph: bytes, inputs: Sequence[np.ndarray], setting: Setting) -> list[tuple[str, np.ndarray]]:
        with tempfile.TemporaryDirectory() as folder:
            session, run = self._session(graph, inputs, setting, alone=True, profile=str(Path(folder) / "profile"))
            for _ in _some_runs():
                run()
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        kinds: dict[str, str] = {}
        microseconds: dict[str, list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                kinds[event["name"]] = event["args"].get("op_name", "")
                microseconds.setdefault(event["name"], []).append(event["dur"])
        return [(kind, 1e-6 * np.array(microseconds[name])) for name, kind in kinds.items()]

    def _provider(self, setting: Setting) -> str | tuple[str, dict[str, Any]]:
        return "CPUExecutionProvider"

    def _session(
        self, graph: bytes, inputs: Sequence[np.ndarray], setting: Setting, alone: bool, profile: str = ""
    ) -> tuple[Any, Run]:
        """A session, and what runs it once."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = setting.threads, 1
        options.log_severity_level = 3
        if not alone:  # its threads would spin on while another is timed, and take the processor from that one
            options.add_session_config_entry("session.force_spinning_stop", "1")
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        session = onnxruntime.InferenceSession(graph, options, providers=[self._provider(setting)])
        binding = session.io_binding()
        for own, array in zip(session.get_inputs(), inputs, strict=True):
            binding.bind_cpu_input(own.name, array)
        for result in session.get_outputs():
            binding.bind_output(result.name)
        return session, lambda: session.run_with_iobinding(binding)


@register
class TensorRT(OnnxRuntime):
    """TensorRT, through ONNX Runtime's provider for it."""

    name = "tensorrt"
    packages = ("onnx", "onnxscript", "onnxruntime-gpu", "tensorrt")
    precisions = ("float32", "bfloat16", "float16")

    def _provider(self, setting: Setting) -> str | tuple[str, dict[str, Any]]:
        wanted = {"float16": {"trt_fp16_enable": True}, "bfloat16": {"trt_bf16_enable": True}}
        return "TensorrtExecutionProvider", wanted.get(setting.precision, {})

    def device(self) -> str:
        return torch.cuda.get_device_name()

    def missing(self) -> str:
        absent = super().missing()
        if absent:
            return "the packages onnxruntime-gpu and tensorrt are not installed (docs/export.md)"
        return "" if torch.cuda.is_available() else "torch sees no CUDA device"


@register
class OpenVino(_Runtime):
    """OpenVINO on the processor, set to low latency."""

    name = "openvino"
    packages = ("onnx", "onnxscript", "openvino")
    precisions = tuple(_HINTS)

    def graph(self, graph: bytes, inputs: Sequence[np.ndarray], setting: Setting, alone: bool = True) -> Run:
        request = self._request(graph, inputs, setting)
        return lambda: request.infer()

    def profile(self, graph: bytes, inputs: Sequence[np.ndarray], setting: Setting) -> list[tuple[str, np.ndarray]]:
        request = self._request(graph, inputs, setting, PERF_COUNT=True)
        runs = []
        for _ in _some_runs():
            request.infer()
            runs.append(request.profiling_info)
        return [
            (kernel[0].node_type, np.array([own.real_time.total_seconds() for own in kernel]))
            for kernel in zip(*runs, strict=True)
        ]

    def _request(self, graph: bytes, inputs: Sequence[np.ndarray], setting: Setting, **options: Any) -> Any:
        import openvino

        core = openvino.Core()
        hint = _HINTS[setting.precision]
        options |= {
            "INFERENCE_NUM_THREADS": setting.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": hint,
        }
        compiled = core.compile_model(core.read_model(graph), "CPU", options)
        got = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if got != hint:
            raise LatencyError(
                f"Expected OpenVINO to run in {setting.precision} on this processor, but it runs in {got}; say another "
                "precision."
            )
        request = compiled.create_infer_request()
        for number, place in enumerate(inputs_read(compiled, graph)):
            request.set_input_tensor(number, openvino.Tensor(inputs[place]))
        return request


def _some_runs() -> Iterator[None]:
    """As many turns as a profile needs."""
    fewest, most = _RUNS
    end = time.perf_counter() + _PROFILED
    for number in range(most):
        if number >= fewest and time.perf_counter() > end:
            return
        yield


# ---- operations as graphs of their own ----


def graph_of(call: Call, sizes: Sequence[int]) -> tuple[bytes, list[np.ndarray]] | None:
    """An operation at some sizes as a serialised graph, and its inputs; None where a runtime has no such operation."""
    make = _NODES.get(call.name.split(".")[1].rstrip("_") if call.name.startswith("aten.") else "")
    if make is None:
        return None
    arguments, keywords = call.at(sizes)
    made = make(list(arguments), keywords)
    if made is None:
        return None
    node, fed, weights = made
    outputs = call.output_shapes(call.full if call.rigid else sizes)[:1]
    return _graph([node], [_array(tensor) for tensor in fed], [_array(tensor) for tensor in weights], outputs)


def _array(tensor: Tensor) -> np.ndarray:
    return random_tensor(tensor, torch.float32).contiguous().float().numpy()  # a mask takes part as numbers


def _graph(
    nodes: Sequence[Node], fed: Sequence[np.ndarray], weights: Sequence[np.ndarray], outputs: Sequence[Sequence[int]]
) -> tuple[bytes, list[np.ndarray]]:
    """One node after the other; the first reads all inputs and weights."""
    from onnx import TensorProto, helper, numpy_helper

    names = [f"x{place}" for place in range(len(fed))]
    constants = [f"w{place}" for place in range(len(weights))]
    read, made = [*names, *constants], []
    for place, (operator, attributes) in enumerate(nodes):
        made.append(helper.make_node(operator, read, [f"y{place}"], **attributes))
        read = [f"y{place}"]
    graph = helper.make_graph(
        made,
        "operation",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            for name, array in zip(names, fed, strict=True)
        ],
        [helper.make_tensor_value_info(read[0], TensorProto.FLOAT, list(outputs[0]))],
        [numpy_helper.from_array(array, name) for name, array in zip(constants, weights, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    return model.SerializeToString(), list(fed)


_NUMBER = Tensor((), (), "float32")

Made = tuple[Node, list[Tensor], list[Tensor]]  # a node, what it is fed, its weights


def _convolution(arguments: list[Any], keywords: Mapping[str, Any]) -> Made | None:
    image, weight, bias, stride, padding, dilation, transposed, extra, groups = arguments[:9]
    attributes: dict[str, Any] = {
        "strides": list(stride),
        "pads": [*padding, *padding],
        "dilations": list(dilation),
        "group": groups,
    }
    if transposed:
        attributes["output_padding"] = list(extra)
    wide = weight.sizes[1] * groups if transposed else weight.sizes[0]
    # a normalisation that follows is folded into weight and bias, so there always is one
    bias = Tensor((wide,), (0,), "float32") if bias is None else bias
    return ("ConvTranspose" if transposed else "Conv", attributes), [image], [weight, bias]


def _addmm(arguments: list[Any], keywords: Mapping[str, Any]) -> Made:
    bias, x, weight = arguments[:3]
    return ("Gemm", {}), [x], [weight, bias]


def _product(arguments: list[Any], keywords: Mapping[str, Any]) -> Made:
    return ("MatMul", {}), list(arguments[:2]), []


def _weighted(arguments: list[Any], keywords: Mapping[str, Any]) -> Made:
    return ("MatMul", {}), [arguments[0]], [arguments[1]]


def _layer_norm(arguments: list[Any], keywords: Mapping[str, Any]) -> Made | None:
    x, shape, weight, bias = arguments[:4]
    if weight is None:
        return None
    return ("LayerNormalization", {"axis": -len(shape)}), [x], [weight] if bias is None else [weight, bias]


def _softmax(arguments: list[Any], keywords: Mapping[str, Any]) -> Made:
    return ("Softmax", {"axis": arguments[1]}), [arguments[0]], []


def _pool(operator: str) -> Callable[[list[Any], Mapping[str, Any]], Made | None]:
    def make(arguments: list[Any], keywords: Mapping[str, Any]) -> Made | None:
        omitted: tuple[Any, ...] = ((), (0, 0))[len(arguments) - 2 :]
        image, kernel, stride, padding, *_ = [*arguments, *omitted]
        kernel, stride, padding = (tuple(value) * (3 - len(value)) for value in (kernel, stride or kernel, padding))
        attributes = {"kernel_shape": list(kernel), "strides": list(stride), "pads": [*padding, *padding]}
        return (operator, attributes), [image], []

    return make


def _like(operator: str, **attributes: Any) -> Callable[[list[Any], Mapping[str, Any]], Made | None]:
    """An operation on tensors and numbers; of images those that runtimes put into the convolution before are left
    out."""

    def make(arguments: list[Any], keywords: Mapping[str, Any]) -> Made | None:
        operands = [value for value in arguments if isinstance(value, Tensor)]
        numbers = [_NUMBER for value in arguments if isinstance(value, int | float)]
        fused = operator in ("Add", "Mul") and len(operands[0].sizes) == 4
        return None if fused else ((operator, attributes), operands, numbers)

    return make


_NODES: dict[str, Callable[[list[Any], Mapping[str, Any]], Made | None]] = {
    "convolution": _convolution,
    "addmm": _addmm,
    "mm": _weighted,
    "bmm": _product,
    "native_layer_norm": _layer_norm,
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    "max_pool2d_with_indices": _pool("MaxPool"),
    "avg_pool2d": _pool("AveragePool"),
    "gelu": _like("Gelu"),
    "add": _like("Add"),
    "mul": _like("Mul"),
    "sigmoid": _like("Sigmoid"),
    "tanh": _like("Tanh"),
}
