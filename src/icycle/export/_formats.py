"""The formats that a model can be written in: an open registry. Whatever is written is run, and compared with torch."""

from __future__ import annotations

import filecmp
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from icycle.errors import ExportError, IcycleError
from icycle.export._onnx import at_least_two, dynamic_shapes, in_a_line, onnx_model, quiet, require
from icycle.files import for_all
from icycle.tracing import (
    batch_size,
    call_with,
    copy_of,
    map_tensors,
    named_tensors,
    output_tensors,
    shapes_in_words,
    undisturbed,
    with_batch,
)

__all__ = [
    "Exported",
    "Runner",
    "arrays",
    "export",
    "files_of",
    "format_names",
    "inputs_read",
    "into_place",
    "onnx_runner",
    "openvino_runner",
    "register_format",
]

Runner = Callable[[Any], list[torch.Tensor]]  # inputs -> every output, in torch's order
Writer = Callable[[nn.Module, Any, Path, bool], Runner]

_formats: dict[str, tuple[str, Writer]] = {}

_FIXED = "if its code takes batches of one size alone, fix that size (dynamic_batch=False, --fixed-batch)."


@dataclass(frozen=True)
class Exported:
    """What was written, and the largest absolute difference of any output from torch's, over `batches` batches."""

    path: Path
    format: str
    difference: float
    batches: int
    files: tuple[Path, ...]  # `path`, and what lies beside it for OpenVINO

    @property
    def bytes(self) -> int:
        """Size on disk, of all files together."""
        return sum(file.stat().st_size for file in self.files)


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


def files_of(path: Path) -> list[Path]:
    """The files beside `path` that formats have written under its name, with those in eight bits."""
    suffixes = {suffix for suffix, _ in _formats.values()} | {".bin"}
    stems = {path.stem, f"{path.stem}-int8"}
    return sorted(file for file in path.parent.iterdir() if file.suffix in suffixes and file.stem in stems)


def export(model: nn.Module, inputs: Any, path: str | Path, to: str, *, dynamic_batch: bool = True) -> Exported:
    """Write `model`, as it is in evaluation mode, to the file `path` in the format `to`, run it, and compare.

    Args:
        inputs: a tensor, a tuple of positional or a dict of keyword arguments; real ones, since numerics are compared
            on them.
        path: the format's suffix is added where it is missing; in a folder that is there the file is called `model`.
        dynamic_batch: the first dimension of every input is left free, and a batch of one more example is compared,
            too.

    Raises ExportError where the format is unknown, its package is missing, another file is there (the same one stays),
    the model cannot be written, or what was written does not run on both batches, or gives other shapes; it is removed
    then. What the model is stays as it is.
    """
    if to not in _formats:
        raise ExportError(f"Expected a format out of {', '.join(_formats)}, but got {to!r}.")
    suffix, _ = _formats[to]
    file = Path(path) / "model" if Path(path).is_dir() else Path(path)
    file = file if file.suffix == suffix else file.with_name(file.name + suffix)
    own = copy_of(model).eval()
    with undisturbed(model), torch.no_grad(), warnings.catch_warnings(), into_place(file) as (fresh, files):
        warnings.simplefilter("ignore")  # of exporters, about their own insides
        run = _written(own, inputs, fresh, to, dynamic_batch)
        batches = [inputs, with_batch(inputs, batch_size(inputs) + 1)] if dynamic_batch else [inputs]
        difference = max(_compared(run, own, batch) for batch in batches)
    return Exported(file, to, difference, len(batches), tuple(files))


def _written(model: nn.Module, inputs: Any, file: Path, to: str, dynamic_batch: bool) -> Runner:
    try:
        return _formats[to][1](model, inputs, file, dynamic_batch)
    except (IcycleError, OSError, SafetensorError):
        raise
    except Exception as error:  # of the runtime, which may have no operation for what torch could write
        raise ExportError(
            f"Expected {type(model).__name__} to be written and opened as {to}, but got {in_a_line(error)}; choose "
            "another format (--to), or fix the batch (dynamic_batch=False, --fixed-batch)."
        ) from error


@contextmanager
def into_place(file: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Gives a place to write `file` in, and a list that then holds all files that the block has left there: these are
    moved beside `file` in the end.

    Raises ExportError where one is there already, and is another, or nothing can be written; what was there stays.
    """
    files: list[Path] = []
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            yield Path(folder) / file.name, files
            made = {each: file.with_name(each.name) for each in sorted(Path(folder).iterdir())}
            for fresh, place in made.items():
                if place.exists() and not filecmp.cmp(fresh, place, shallow=False):
                    raise ExportError(f"Expected a new file, but {place} exists; choose another or remove it.")
            for fresh, place in made.items():
                if not place.exists():
                    for_all(fresh)
                    fresh.rename(place)
            files.extend(made.values())
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"Expected to write {file}, but it failed: {error}; choose another folder, or make room in this one."
        ) from error


def _compared(run: Runner, model: nn.Module, inputs: Any) -> float:
    """The largest difference of what was written from the model, on these inputs."""
    given = shapes_in_words(inputs)
    try:
        expected, found = list(output_tensors(call_with(model, inputs))), run(inputs)
    except Exception as error:
        raise ExportError(
            f"Expected {type(model).__name__}, and what was written of it, to run on {given}, but got "
            f"{in_a_line(error)}; {_FIXED}"
        ) from error
    if [one.shape for one in found] != [one.shape for one in expected]:
        shapes = [[list(one.shape) for one in each] for each in (expected, found)]
        raise ExportError(
            f"Expected outputs of the shapes {shapes[0]} for {given}, as in torch, but the written model gives "
            f"{shapes[1]}; {_FIXED}"
        )
    return max(
        (_difference(one.cpu().double(), two.cpu().double()) for one, two in zip(found, expected, strict=True)),
        default=0.0,
    )


def _difference(one: torch.Tensor, two: torch.Tensor) -> float:
    """The largest absolute difference: none of what is the same in both, infinite or NaN as it may be; of a NaN from
    anything else it is infinite."""
    same = (one == two) | (one.isnan() & two.isnan())
    apart = torch.where(same, 0.0, one - two).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    return float(apart.max()) if apart.numel() else 0.0


@register_format("onnx", ".onnx")
def _onnx(model: nn.Module, inputs: Any, file: Path, dynamic_batch: bool) -> Runner:
    require("onnxruntime")
    _require_numpy(model, to="onnx")
    file.write_bytes(onnx_model(model, inputs, dynamic_batch=dynamic_batch))
    return onnx_runner(file)


def onnx_runner(file: Path) -> Runner:
    """Runs an ONNX file in ONNX Runtime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, too
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [own.name for own in session.get_inputs()]

    def run(inputs: Any) -> list[torch.Tensor]:
        fed = dict(zip(names, arrays(inputs), strict=True))
        return [torch.from_numpy(np.asarray(result)) for result in session.run(None, fed)]

    return run


@register_format("openvino", ".xml")
def _openvino(model: nn.Module, inputs: Any, file: Path, dynamic_batch: bool) -> Runner:
    require("openvino", "onnx")
    import openvino

    _require_numpy(model, to="openvino")
    graph = onnx_model(model, inputs, dynamic_batch=dynamic_batch)
    openvino.save_model(openvino.Core().read_model(graph), file, compress_to_fp16=False)
    return openvino_runner(file, graph)


def openvino_runner(file: Path, graph: bytes | None = None) -> Runner:
    """Runs OpenVINO's XML, or an ONNX file, in OpenVINO on the processor.

    `graph` is the ONNX graph that it was made of, where OpenVINO may have left out inputs that no operation reads.
    """
    import openvino

    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    places = None if graph is None else inputs_read(compiled, graph)

    def run(inputs: Any) -> list[torch.Tensor]:
        given = arrays(inputs)
        results = compiled(given if places is None else [given[place] for place in places])
        return [torch.from_numpy(np.array(results[place])) for place in range(len(compiled.outputs))]

    return run


def inputs_read(compiled: Any, graph: bytes) -> list[int]:
    """For every input of what OpenVINO compiled its place among those of the ONNX graph; what no operation reads is
    left out."""
    import onnx

    names = [own.name for own in onnx.load_from_string(graph).graph.input]
    return [next(place for place, name in enumerate(names) if name in own.names) for own in compiled.inputs]


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
    state = model.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}  # else extra state
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, file)
    loaded = copy_of(model).eval()
    loaded.load_state_dict({**state, **load_file(file)})
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


def _require_numpy(model: nn.Module, to: str) -> None:
    """Raise ExportError for weights that numpy, which brings inputs to the runtime, has no type for."""
    odd = next((name for name, tensor in named_tensors(model) if tensor.dtype == torch.bfloat16), None)
    if odd is not None:
        raise ExportError(
            f"Expected weights in float32 or float16 for {to}, but {odd} of {type(model).__name__} is bfloat16; export "
            "model.float()."
        )


def _as_tuple(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def arrays(inputs: Any) -> list[np.ndarray]:
    """Every tensor of the inputs, in their order."""
    found: list[np.ndarray] = []
    map_tensors(inputs, lambda tensor: found.append(tensor.detach().cpu().contiguous().numpy()))
    return found
