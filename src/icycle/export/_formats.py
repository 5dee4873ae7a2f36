"""The formats that a model can be written in: an open registry. Whatever is written is run, and compared with torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from icycle.errors import ExportError
from icycle.export._onnx import at_least_two, dynamic_shapes, in_a_line, onnx_model, quiet, require
from icycle.tracing import call_with, copy_of, map_tensors, output_tensors, undisturbed

__all__ = [
    "Exported",
    "Runner",
    "arrays",
    "export",
    "format_names",
    "onnx_runner",
    "openvino_runner",
    "register_format",
]

Runner = Callable[[Any], list[torch.Tensor]]  # inputs -> every output, in torch's order
Writer = Callable[[nn.Module, Any, Path, bool], Runner]

_formats: dict[str, tuple[str, Writer]] = {}


@dataclass(frozen=True)
class Exported:
    """What was written, and the largest absolute difference of any output from torch's, over `inputs` batches."""

    path: Path
    format: str
    difference: float
    batches: int

    @property
    def bytes(self) -> int:
        """Size on disk; of OpenVINO's two files together."""
        return sum(file.stat().st_size for file in self.path.parent.glob(f"{self.path.stem}.*") if _belongs(file, self))


def _belongs(file: Path, exported: Exported) -> bool:
    return file == exported.path or (exported.format == "openvino" and file.suffix == ".bin")


def register_format(name: str, suffix: str) -> Callable[[Writer], Writer]:
    """Add a format: a function (model, inputs, file, dynamic_batch) that writes the model, which is in evaluation mode,
    and returns something that runs the file."""

    def decorate(writer: Writer) -> Writer:
        _formats[name] = (suffix, writer)
        return writer

    return decorate


def format_names() -> tuple[str, ...]:
    """The formats that `export` knows."""
    return tuple(_formats)


def export(model: nn.Module, inputs: Any, path: str | Path, to: str, *, dynamic_batch: bool = True) -> Exported:
    """Write `model`, as it is in evaluation mode, to the file `path` in the format `to`, run it, and compare.

    Args:
        inputs: a tensor, a tuple of positional or a dict of keyword arguments; real ones, since numerics are compared
            on them.
        path: the format's suffix is added where it is missing.
        dynamic_batch: the first dimension of every input is left free, and a batch of another size is compared, too.

    Raises ExportError where the format is unknown, its package is missing, the file exists, or the model cannot be
    written. What the model is stays as it is.
    """
    if to not in _formats:
        raise ExportError(f"Expected a format out of {', '.join(_formats)}, but got {to!r}.")
    suffix, write = _formats[to]
    file = Path(path)
    file = file if file.suffix == suffix else file.with_name(file.name + suffix)
    if file.exists():
        raise ExportError(f"Expected a new file, but {file} exists; choose another or remove it.")
    own = copy_of(model).eval()
    with undisturbed(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of exporters, about their own insides
        file.parent.mkdir(parents=True, exist_ok=True)
        run = write(own, inputs, file, dynamic_batch)
        batches = [inputs, at_least_two(at_least_two(inputs))] if dynamic_batch else [inputs]
        batches = batches if _sizes(batches[0]) != _sizes(batches[-1]) else batches[:1]
        difference = max(_difference(run(batch), list(output_tensors(call_with(own, batch)))) for batch in batches)
    return Exported(file, to, difference, len(batches))


def _sizes(inputs: Any) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    map_tensors(inputs, lambda tensor: found.append(tuple(tensor.shape)))
    return found


def _difference(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    if [one.shape for one in found] != [one.shape for one in expected]:
        shapes = [[list(one.shape) for one in each] for each in (expected, found)]
        raise ExportError(
            f"Expected outputs of the shapes {shapes[0]}, as in torch, but the written model gives {shapes[1]}."
        )
    return max(
        (float((one.double() - two.cpu().double()).abs().max()) for one, two in zip(found, expected, strict=True)),
        default=0.0,
    )


@register_format("onnx", ".onnx")
def _onnx(model: nn.Module, inputs: Any, file: Path, dynamic_batch: bool) -> Runner:
    require("onnxruntime")
    file.write_bytes(onnx_model(model, inputs, dynamic_batch=dynamic_batch))
    return onnx_runner(file)


def onnx_runner(file: Path) -> Runner:
    """Runs an ONNX file in ONNX Runtime on the processor."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [own.name for own in session.get_inputs()]

    def run(inputs: Any) -> list[torch.Tensor]:
        fed = dict(zip(names, arrays(inputs), strict=True))
        return [torch.from_numpy(np.asarray(result)) for result in session.run(None, fed)]

    return run


@register_format("openvino", ".xml")
def _openvino(model: nn.Module, inputs: Any, file: Path, dynamic_batch: bool) -> Runner:
    require("openvino")
    import openvino

    graph = openvino.Core().read_model(onnx_model(model, inputs, dynamic_batch=dynamic_batch))
    openvino.save_model(graph, file, compress_to_fp16=False)
    return openvino_runner(file)


def openvino_runner(file: Path) -> Runner:
    """Runs OpenVINO's XML, or an ONNX file, in OpenVINO on the processor."""
    import openvino

    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Any) -> list[torch.Tensor]:
        results = compiled(arrays(inputs))
        return [torch.from_numpy(np.array(results[place])) for place in range(len(compiled.outputs))]

    return run


@register_format("pt2", ".pt2")
def _exported_program(model: nn.Module, inputs: Any, file: Path, dynamic_batch: bool) -> Runner:
    example = at_least_two(inputs) if dynamic_batch else inputs
    positional, keywords = ((), dict(example)) if isinstance(example, Mapping) else (_as_tuple(example), {})
    shapes = dynamic_shapes(positional, keywords) if dynamic_batch else None
    try:
        with quiet():
            program = torch.export.export(model, positional, keywords, dynamic_shapes=shapes)
            torch.export.save(program, file)
    except Exception as error:
        raise ExportError(
            f"Expected torch.export to export {type(model).__name__}, but it raised {in_a_line(error)}"
        ) from error
    loaded = torch.export.load(file).module()
    return lambda batch: list(output_tensors(call_with(loaded, batch)))


@register_format("safetensors", ".safetensors")
def _safetensors(model: nn.Module, inputs: Any, file: Path, dynamic_batch: bool) -> Runner:
    """The state dict alone, for whoever builds the network from its shapes; tied tensors are written once each."""
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}, file)
    loaded = copy_of(model).eval()
    loaded.load_state_dict(load_file(file))
    return lambda batch: list(output_tensors(call_with(loaded, batch)))


@register_format("executorch", ".pte")
def _executorch(model: nn.Module, inputs: Any, file: Path, dynamic_batch: bool) -> Runner:
    """A program for ExecuTorch, with the shapes of `inputs`: its memory is planned before it runs."""
    require("executorch")
    from executorch.exir import to_edge
    from executorch.runtime import Runtime

    if dynamic_batch:
        raise ExportError("Expected a fixed batch for ExecuTorch, which plans its memory; pass dynamic_batch=False.")
    if isinstance(inputs, Mapping):
        raise ExportError(
            f"Expected positional inputs for ExecuTorch, but got the keywords {', '.join(inputs)}; wrap the network in "
            "one that takes a tuple."
        )
    positional = _as_tuple(inputs)
    file.write_bytes(to_edge(torch.export.export(model, positional)).to_executorch().buffer)
    method = Runtime.get().load_program(file).load_method("forward")
    return lambda batch: list(method.execute(list(_as_tuple(batch))))


def _as_tuple(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def arrays(inputs: Any) -> list[np.ndarray]:
    """Every tensor of the inputs, in their order."""
    found: list[np.ndarray] = []
    map_tensors(inputs, lambda tensor: found.append(tensor.detach().cpu().contiguous().numpy()))
    return found
