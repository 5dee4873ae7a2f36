"""Eight-bit integers by ONNX Runtime's static quantisation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from icycle.errors import ExportError
from icycle.export._formats import onnx_runner
from icycle.export._onnx import quiet, require

__all__ = ["accuracy", "quantize"]

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]  # inputs (batch, ...), labels (batch,)


def quantize(file: str | Path, batches: Iterable[torch.Tensor], path: str | Path) -> Path:
    """Write an ONNX model of one input anew with weights and activations in eight bits.

    The ranges of the activations are those on `batches` of inputs, (batch, ...): a few hundred examples, prepared as
    for the model. Weights have a range per channel. Source: ONNX Runtime, quantize_static (QDQ).

    Raises ExportError where the file exists, a package is missing, or there is no batch.
    """
    require("onnx", "onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, result = Path(file), Path(path)
    if result.exists():
        raise ExportError(f"Expected a new file, but {result} exists; choose another or remove it.")
    name = _input_name(source)
    feeds = [{name: batch.detach().cpu().numpy()} for batch in batches]
    if not feeds:
        raise ExportError("Expected at least one batch to find the ranges of the activations on, but got none.")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, Any]] = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(result),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return result


def accuracy(file: str | Path, batches: Batches) -> float:
    """Percent of the examples that an ONNX model of one input classifies right, 0..100."""
    run = onnx_runner(Path(file))
    right = seen = 0
    for inputs, labels in batches:
        right += int((run(inputs)[0].argmax(dim=1) == labels.cpu()).sum())
        seen += len(labels)
    if not seen:
        raise ExportError("Expected at least one batch to tell the accuracy on, but got none.")
    return 100.0 * right / seen


def _input_name(file: Path) -> str:
    import onnx

    names = [own.name for own in onnx.load(str(file), load_external_data=False).graph.input]
    if len(names) != 1:
        raise ExportError(
            f"Expected a model of one input to quantise, but {file} has {len(names)}: {', '.join(names)}."
        )
    return names[0]
